//! Talking to nodes: the first endpoint that answers, and one step after a leader.
//!
//! Nothing here waits without a bound: connecting and the first answer have [`ANSWER_LIMIT`], all else ends with the
//! command's own timeout.

use crate::ctl::trouble::{Trouble, leader_of};
use crate::env;
use crate::proto::admin::admin_client::AdminClient;
use crate::proto::admin::{StatusRequest, StatusResponse};
use std::future::Future;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// Time a node has to answer before the next endpoint is tried.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Longest answer: slot ranges of many groups are the largest.
const ANSWER_MAX_BYTES: usize = 64 << 20;

pub type Client = AdminClient<Channel>;

/// A node that answered, and what it said first.
pub struct Reached {
    pub endpoint: String,
    pub client: Client,
    pub status: StatusResponse,
}

/// Connects to one node; the error is its cause in words.
pub async fn connect(endpoint: &str) -> Result<Client, String> {
    let channel = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|error| format!("{endpoint} is not HOST:PORT: {}", causes(&error)))?
        .connect_timeout(ANSWER_LIMIT)
        .connect()
        .await
        .map_err(|error| format!("{endpoint}: {}", causes(&error)))?;
    Ok(AdminClient::new(channel).max_decoding_message_size(ANSWER_MAX_BYTES))
}

/// The first endpoint that tells its status.
pub async fn reach(endpoints: &[String]) -> Result<Reached, Trouble> {
    let mut failures = Vec::new();
    for endpoint in endpoints {
        let attempt = async {
            let mut client = connect(endpoint).await.map_err(|cause| Trouble::unreachable(&[cause]))?;
            let status = client.status(StatusRequest {}).await;
            let status = status.map_err(|status| Trouble::of_status(endpoint, &status))?.into_inner();
            Ok::<_, Trouble>(Reached { endpoint: endpoint.clone(), client, status })
        };
        match env::timeout(ANSWER_LIMIT, attempt).await {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(trouble)) => failures.push(trouble),
            Err(_) => {
                let cause = format!("{endpoint}: no answer within {} s", ANSWER_LIMIT.as_secs());
                failures.push(Trouble::unreachable(&[cause]));
            }
        }
    }
    match <[Trouble; 1]>::try_from(failures) {
        Ok([only]) => Err(only),
        Err(all) => {
            let causes: Vec<String> =
                all.iter().map(|one| one.message.trim_start_matches("no node answers: ").to_owned()).collect();
            Err(Trouble::unreachable(&causes))
        }
    }
}

impl Reached {
    /// Makes a call here, and once more at the leader if the answer is that another node leads.
    pub async fn at_leader<T, F, C>(&self, call: C) -> Result<T, Trouble>
    where
        C: Fn(Client) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let refused = match call(self.client.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let Some(leader) = leader_of(&refused) else {
            return Err(Trouble::of_status(&self.endpoint, &refused));
        };
        let client = connect(&leader).await.map_err(|cause| Trouble::unreachable(&[cause]))?;
        match call(client).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(Trouble::of_status(&leader, &status)),
        }
    }
}

/// An error with everything that caused it: tonic's own says only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some layers only repeat what the one above them said.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
