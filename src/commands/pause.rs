//! CLIENT PAUSE and UNPAUSE. What waits is the door's business.

use super::connection::spec;
use super::node::{Node, Paused};
use super::session::Session;
use super::syntax::{is, subcommand_error};
use super::{NodeCommand, Spec};
use crate::resp::{Args, Reply, integer};
use std::time::Duration;

pub(super) struct Pause {
    lasting: Duration,
    what: Paused,
}

impl NodeCommand for Pause {
    const SPEC: Spec = spec(
        "pause",
        -3,
        "3.0.0",
        "CLIENT PAUSE timeout [WRITE | ALL]",
        "For so many milliseconds requests to this node wait.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let what = match &args[3..] {
            [] => Paused::All,
            [word] if is(word, "write") => Paused::Writes,
            [word] if is(word, "all") => Paused::All,
            [_] => return Err(Reply::error("ERR CLIENT PAUSE mode must be WRITE or ALL")),
            _ => return Err(subcommand_error("CLIENT", &args[1])),
        };
        let ms = integer(&args[2]).ok_or_else(|| Reply::error("ERR timeout is not an integer or out of range"))?;
        let ms = u64::try_from(ms).map_err(|_| Reply::error("ERR timeout is negative"))?;
        Ok(Pause { lasting: Duration::from_millis(ms), what })
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        node.pause(Some((self.lasting, self.what)));
        Reply::OK
    }
}

pub(super) struct Unpause;

impl NodeCommand for Unpause {
    const SPEC: Spec = spec("unpause", 2, "6.2.0", "CLIENT UNPAUSE", "Requests wait no more.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Unpause)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        node.pause(None);
        Reply::OK
    }
}
