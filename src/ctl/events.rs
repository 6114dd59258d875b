//! `hypercachectl events`: what happened to the cluster, as one node saw it.
//!
//! Lines are printed as they come, so that a pipe sees them at once. A stream that breaks is taken up again behind the last
//! number that was printed; what was lost meanwhile is said.

use super::client::{Reached, reach};
use super::trouble::Trouble;
use super::{Cli, output};
use crate::env;
use crate::proto::admin::{EventsRequest, events_part::Part};
use std::io::Write;
use std::time::Duration;
use tokio_stream::StreamExt;

/// Before a stream that broke is taken up again.
const AGAIN: Duration = Duration::from_millis(500);

/// Prints events until all that are kept were told; with `follow` until somebody ends it.
pub async fn run(cli: &Cli, after: u64, follow: bool) -> Result<String, Trouble> {
    let mut reached = reach(&cli.endpoint, &cli.credentials()).await?;
    // As long as the number was not held against a run, it is believed.
    let mut place = Place { run: 0, after };
    loop {
        match tell(cli, &reached, &mut place, follow).await {
            Ok(()) if !follow => return Ok(String::new()),
            // The node has ended in order.
            Ok(()) => {}
            Err(trouble) if follow && trouble.passes() => eprintln!("{}", trouble.message),
            Err(trouble) => return Err(trouble),
        }
        loop {
            env::sleep(AGAIN).await;
            match reach(&cli.endpoint, &cli.credentials()).await {
                Ok(again) => break reached = again,
                Err(trouble) if trouble.passes() => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }
}

/// Up to where events were printed.
struct Place {
    run: u64,
    after: u64,
}

async fn tell(cli: &Cli, reached: &Reached, place: &mut Place, follow: bool) -> Result<(), Trouble> {
    let failed = |status: &tonic::Status| Trouble::of_status(&reached.endpoint, status);
    let mut client = reached.client.clone();
    let request = EventsRequest { run: place.run, after: place.after, follow };
    let mut stream = client.events(request).await.map_err(|status| failed(&status))?.into_inner();
    while let Some(part) = stream.next().await {
        match part.map_err(|status| failed(&status))?.part {
            Some(Part::Begun(begun)) => {
                if place.run != 0 && place.run != begun.run {
                    say(&output::events_began_anew(begun.node, cli.output));
                }
                place.run = begun.run;
            }
            Some(Part::Missed(missed)) => say(&output::events_missed(missed.count, cli.output)),
            Some(Part::Event(event)) => {
                place.after = event.number;
                say(&output::event(&event, &reached.status.nodes, cli.output));
            }
            // Of a newer node.
            None => {}
        }
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be listening any more; the stream ends with the program then.
    let _ = out.write_all(line.as_bytes());
    let _ = out.flush();
}
