//! CLIENT PAUSE, and what CLIENT LIST and KILL tell apart.

use super::*;

#[tokio::test]
async fn writes_wait_while_they_are_paused_and_reads_do_not() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(other.ask("CLIENT PAUSE 3600000 WRITE").await, "OK");
    c.pipeline("GET k\nSET k v\nGET k").await;
    assert_eq!(c.read().await, "nil");
    assert_eq!(other.ask_all("GET k\nPING").await, ["nil", "PONG"]);
    assert!(rig.group(1).proposals().is_empty());
    assert_eq!(other.ask("CLIENT UNPAUSE").await, "OK");
    assert_eq!([c.read().await, c.read().await], ["OK", "v"]);
    // A pause that is over is over, whatever it was to hold.
    assert_eq!(other.ask("CLIENT PAUSE 1 ALL").await, "OK");
    assert_eq!(c.ask("SET k w").await, "OK");
}

#[tokio::test]
async fn listeners_are_clients_of_another_type() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    c.ask_all("SUBSCRIBE a\nPSUBSCRIBE b").await;
    let listed = other.ask("CLIENT LIST TYPE pubsub").await;
    assert!(listed.contains(" flags=P ") && listed.contains(" sub=1 psub=1 ssub=0 "), "{listed}");
    assert_eq!(listed.lines().count(), 1);
    assert_eq!(other.ask("CLIENT LIST TYPE normal").await.lines().count(), 1);
    assert_eq!(other.ask("CLIENT KILL TYPE pubsub").await, "1");
    assert_eq!(c.read().await, "(closed)");
    assert_eq!(other.ask_all("CLIENT NO-EVICT ON\nCLIENT NO-TOUCH ON").await, ["OK", "OK"]);
    let own = other.ask("CLIENT INFO").await;
    assert!(own.contains(" flags=eT "), "{own}");
}
