//! `hypercachectl top`: nodes and groups, looked at again and again, with what was written in between.
//!
//! On a terminal each look takes the place of the one before; elsewhere they follow one another.

use super::client::{Reached, reach};
use super::trouble::Trouble;
use super::{Cli, output};
use crate::env;
use crate::proto::admin::{ExamineRequest, ExamineResponse, Group, StatusRequest, StatusResponse};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Clears the screen and goes to its beginning.
const HOME: &str = "\x1b[2J\x1b[H";

/// Entries that were committed in a group per second.
pub type Rates = BTreeMap<u32, f64>;

/// Shows so many looks; none: until somebody ends it.
pub async fn run(cli: &Cli, every: Duration, looks: Option<u64>) -> Result<String, Trouble> {
    let mut reached = reach(&cli.endpoint, &cli.credentials()).await?;
    let mut before: Option<(env::Instant, Vec<Group>)> = None;
    let mut shown = 0;
    loop {
        let (status, examined) = match look(&reached).await {
            Ok(look) => look,
            Err(trouble) if trouble.passes() && looks.is_none() => {
                eprintln!("{}", trouble.message);
                env::sleep(every).await;
                if let Ok(again) = reach(&cli.endpoint, &cli.credentials()).await {
                    reached = again;
                }
                continue;
            }
            Err(trouble) => return Err(trouble),
        };
        let now = env::now();
        let rates = before.as_ref().map(|(at, groups)| rates(groups, &status.groups, now.saturating_since(*at)));
        let page = output::top(&status, &examined, &rates.unwrap_or_default(), cli.output);
        let mut out = std::io::stdout().lock();
        let home = if out.is_terminal() { HOME } else { "" };
        // Nobody may be looking any more; the program ends with its reader then.
        if write!(out, "{home}{page}").and_then(|()| out.flush()).is_err() {
            return Ok(String::new());
        }
        drop(out);
        before = Some((now, status.groups));
        shown += 1;
        if looks == Some(shown) {
            return Ok(String::new());
        }
        env::sleep(every).await;
    }
}

async fn look(reached: &Reached) -> Result<(StatusResponse, ExamineResponse), Trouble> {
    let failed = |status: tonic::Status| Trouble::of_status(&reached.endpoint, &status);
    let mut client = reached.client.clone();
    let status = client.status(StatusRequest {}).await.map_err(failed)?.into_inner();
    let examined = client.examine(ExamineRequest {}).await.map_err(failed)?.into_inner();
    Ok((status, examined))
}

fn rates(before: &[Group], after: &[Group], between: Duration) -> Rates {
    let seconds = between.as_secs_f64().max(0.001);
    let earlier: BTreeMap<u32, u64> = before.iter().map(|group| (group.id, group.commit)).collect();
    let rate = |group: &Group| {
        let then = *earlier.get(&group.id)?;
        Some((group.id, group.commit.saturating_sub(then) as f64 / seconds))
    };
    after.iter().filter_map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_committed_between_two_looks() {
        let group = |id, commit| Group { id, commit, ..Default::default() };
        let told =
            rates(&[group(1, 100), group(2, 50)], &[group(1, 300), group(2, 40), group(3, 9)], Duration::from_secs(2));
        assert_eq!(told, Rates::from([(1, 100.0), (2, 0.0)]), "a group that is new, or whose log went back, has none");
    }
}
