//! `hypercachectl debug bundle`: a tar file with what somebody needs who looks for an error.
//!
//! Of each node that answers: configuration (secrets are stars), how it is, metrics, kept events and the end of its log. No
//! keys and no values. A node that does not answer leaves a file that says why. The archive is written whole or not at all.

use super::client::{Client, Reached, connect};
use super::trouble::Trouble;
use super::{Cli, Form, output};
use crate::env;
use crate::proto::admin::{
    DebugRequest, EventsRequest, ExamineRequest, ListGroupsRequest, Node, StatusRequest, events_part::Part,
};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;
use tokio_stream::StreamExt;

/// Time a node has to hand out its part.
const PART: Duration = Duration::from_secs(10);
/// tar's unit.
const BLOCK: usize = 512;
/// Longest name in a plain header.
const NAME_MAX: usize = 100;

/// Name and content.
type File = (String, Vec<u8>);

pub async fn run(cli: &Cli, reached: &Reached, to: &Path) -> Result<String, Trouble> {
    let nodes = &reached.status.nodes;
    let mut files: Vec<File> =
        vec![("status.json".to_owned(), output::status(&reached.status, Form::Json).into_bytes())];
    let asked = nodes.iter().map(|node| async move {
        let part = env::timeout(PART, part_of(node, reached)).await;
        (format!("node-{}", node.id), part.unwrap_or_else(|_| Err("no answer in time".to_owned())))
    });
    for (folder, part) in futures_util::future::join_all(asked).await {
        match part {
            Ok(part) => files.extend(part.into_iter().map(|(name, content)| (format!("{folder}/{name}"), content))),
            Err(cause) => files.push((format!("{folder}/unreachable.txt"), format!("{cause}\n").into_bytes())),
        }
    }
    write(to, &files).map_err(|error| Trouble::file(to, &error))?;
    Ok(output::bundled(
        to,
        &files.iter().map(|(name, content)| (name.clone(), content.len())).collect::<Vec<_>>(),
        cli.output,
    ))
}

async fn part_of(node: &Node, reached: &Reached) -> Result<Vec<File>, String> {
    let door = node.addresses.as_ref().map(|at| at.grpc.as_str()).filter(|door| !door.is_empty());
    let mut client = connect(door.ok_or("its gRPC door is not known")?, &reached.credentials).await?;
    let failed = |status: tonic::Status| status.message().to_owned();
    let status = client.status(StatusRequest {}).await.map_err(failed)?.into_inner();
    let groups = client.list_groups(ListGroupsRequest {}).await.map_err(failed)?.into_inner().groups;
    let examined = client.examine(ExamineRequest {}).await.map_err(failed)?.into_inner();
    let mut files: Vec<File> = vec![
        ("status.json".to_owned(), output::status(&status, Form::Json).into_bytes()),
        ("groups.json".to_owned(), output::groups(&groups, &status.nodes, Form::Json).into_bytes()),
        ("peers.json".to_owned(), output::examined(&examined).into_bytes()),
        ("events.jsonl".to_owned(), events(&mut client, &status.nodes).await.map_err(failed)?),
    ];
    let own = client.debug(DebugRequest {}).await.map_err(failed)?.into_inner().files;
    files.extend(own.into_iter().map(|file| (file.name, file.content)));
    Ok(files)
}

async fn events(client: &mut Client, nodes: &[Node]) -> Result<Vec<u8>, tonic::Status> {
    let mut stream = client.events(EventsRequest::default()).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(part) = stream.next().await {
        match part?.part {
            Some(Part::Event(event)) => lines.extend(output::event(&event, nodes, Form::Json).into_bytes()),
            Some(Part::Missed(missed)) => lines.extend(output::events_missed(missed.count, Form::Json).into_bytes()),
            Some(Part::Begun(_)) | None => {}
        }
    }
    Ok(lines)
}

/// Writes a tar file (ustar) that gets its name when it is whole.
fn write(to: &Path, files: &[File]) -> io::Result<()> {
    let aside = to.with_extension("part");
    let mut out = io::BufWriter::new(std::fs::File::create(&aside)?);
    for (name, content) in files {
        out.write_all(&header(name, content.len())?)?;
        out.write_all(content)?;
        out.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()])?;
    }
    // Two empty blocks are the end.
    out.write_all(&[0; 2 * BLOCK])?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&aside, to)
}

/// Fields of a ustar header: name, mode, owner, group, size, time, checksum, kind, magic. Numbers are octal.
fn header(name: &str, len: usize) -> io::Result<[u8; BLOCK]> {
    if name.len() > NAME_MAX {
        return Err(io::Error::other(format!("the name {name} is too long for the archive")));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{len:011o}"));
    put(136, &format!("{:011o}", env::wall_ms() / 1000));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one_that_tar_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (file, into) = (dir.path().join("bundle.tar"), dir.path().join("out"));
        let long = vec![b'x'; 3 * BLOCK + 7];
        let files = [("status.json".to_owned(), b"{}".to_vec()), ("node-1/log".to_owned(), long.clone())];
        write(&file, &files).unwrap();
        std::fs::create_dir(&into).unwrap();
        let ran = std::process::Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&into).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(std::fs::read(into.join("status.json")).unwrap(), b"{}");
        assert_eq!(std::fs::read(into.join("node-1/log")).unwrap(), long);
        assert!(header(&"n".repeat(NAME_MAX + 1), 0).is_err());
        assert!(write(&dir.path().join("none/here.tar"), &files).is_err());
    }
}
