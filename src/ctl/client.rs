//! Talking to nodes: the first endpoint that answers, and one step after a leader.
//!
//! Nothing here waits without a bound: connecting and the first answer have [`ANSWER_LIMIT`], a leader that is not there has
//! [`LEADER_LIMIT`], all else ends with the command's own timeout.

use crate::ctl::trouble::{Trouble, leader_of};
use crate::env;
use crate::proto::admin::admin_client::AdminClient;
use crate::proto::admin::{StatusRequest, StatusResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::future::Future;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Time a node has to answer before the next endpoint is tried.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long a node may name a leader that does not answer, or has only just started: it is about to hear of another one.
const LEADER_LIMIT: Duration = Duration::from_secs(3);
const LEADER_AGAIN: Duration = Duration::from_millis(200);
/// Longest answer: slot ranges of many groups are the largest.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// What a node may send in one piece: a snapshot's chunk goes in one or two instead of sixteen.
const FRAME_BYTES: u32 = 256 << 10;

pub type Client = AdminClient<InterceptedService<Channel, Credentials>>;

/// Says with every call who asks. Never printed.
#[derive(Clone, Default)]
pub struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Credentials {
    /// Without a password nothing is said; without a user it is `default`'s.
    pub fn new(user: Option<&str>, password: Option<&str>) -> Credentials {
        let pair = |password| BASE64.encode(format!("{}:{password}", user.unwrap_or("default")));
        let header = password.map(|password| format!("Basic {}", pair(password)));
        let authorization = header.map(|header| header.parse().expect("base64 is plain text"));
        Credentials { authorization }
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// A node that answered, and what it said first.
pub struct Reached {
    pub endpoint: String,
    pub credentials: Credentials,
    pub client: Client,
    pub status: StatusResponse,
}

/// Connects to one node; the error is its cause in words.
pub async fn connect(endpoint: &str, credentials: &Credentials) -> Result<Client, String> {
    let channel = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|error| format!("{endpoint} is not HOST:PORT: {}", causes(&error)))?
        .connect_timeout(ANSWER_LIMIT)
        .max_frame_size(FRAME_BYTES)
        .connect()
        .await
        .map_err(|error| format!("{endpoint}: {}", causes(&error)))?;
    Ok(AdminClient::with_interceptor(channel, credentials.clone()).max_decoding_message_size(ANSWER_MAX_BYTES))
}

/// The first endpoint that tells its status.
pub async fn reach(endpoints: &[String], credentials: &Credentials) -> Result<Reached, Trouble> {
    let mut failures = Vec::new();
    for endpoint in endpoints {
        let attempt = async {
            let mut client = connect(endpoint, credentials).await.map_err(|cause| Trouble::unreachable(&[cause]))?;
            let status = client.status(StatusRequest {}).await;
            let status = status.map_err(|status| Trouble::of_status(endpoint, &status))?.into_inner();
            let (endpoint, credentials) = (endpoint.clone(), credentials.clone());
            Ok::<_, Trouble>(Reached { endpoint, credentials, client, status })
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
    /// Makes a call here, and at the leader if the answer is that another node leads. While that one cannot be reached, or says
    /// that it does not lead or has only started, all of it is tried again: every call may be repeated.
    pub async fn at_leader<T, F, C>(&self, call: C) -> Result<T, Trouble>
    where
        C: Fn(Client) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let until = env::now() + LEADER_LIMIT;
        loop {
            let refused = match call(self.client.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let Some(leader) = leader_of(&refused) else {
                return Err(Trouble::of_status(&self.endpoint, &refused));
            };
            let (trouble, again) = match connect(&leader, &self.credentials).await {
                Ok(client) => match call(client).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => {
                        let trouble = Trouble::of_status(&leader, &status);
                        let again = trouble.asks_elsewhere();
                        (trouble, again)
                    }
                },
                Err(cause) => (Trouble::unreachable(&[cause]), true),
            };
            if !again || env::now() >= until {
                return Err(trouble);
            }
            env::sleep(LEADER_AGAIN).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_said_as_basic_authorization_and_only_with_a_password() {
        let said = |user, password| {
            let request = Credentials::new(user, password).call(Request::new(())).unwrap();
            request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(said(None, None), None);
        assert_eq!(said(Some("alice"), None), None);
        assert_eq!(said(Some("alice"), Some("pw")).as_deref(), Some("Basic YWxpY2U6cHc="));
        assert_eq!(said(None, Some("pw")).as_deref(), Some("Basic ZGVmYXVsdDpwdw=="));
    }
}
