//! The grammar, the texts and the check, against what Redis 7.2 says, and a user's way through its own document.

use super::*;
use crate::commands;
use crate::resp::{Args, Reply};
use bytes::Bytes;
use proptest::prelude::*;

fn rules(line: &str) -> Vec<Bytes> {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn user(line: &str) -> User {
    let mut user = User::new("alice", 7);
    user.apply(&rules(line)).expect(line);
    user
}

fn text(user: &User) -> String {
    String::from_utf8(user.text()).unwrap()
}

fn may(user: &User, line: &str) -> Result<(), Denied> {
    let args: Args = rules(line).into_iter().collect();
    check(user, commands::lookup(&args).expect(line), &args)
}

const X: &str = "#2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

#[test]
fn users_look_as_in_redis() {
    for (given, shown) in [
        ("", "off sanitize-payload resetchannels -@all"),
        ("on >x", &format!("on sanitize-payload {X} resetchannels -@all")),
        ("on >x nopass", "on nopass sanitize-payload resetchannels -@all"),
        ("nopass >x", &format!("off sanitize-payload {X} resetchannels -@all")),
        (
            ">x >y <x #".trim_end_matches(" #"),
            "off sanitize-payload #a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa resetchannels -@all",
        ),
        ("%R~a* %w~b ~c* %RW~d &e*", "off sanitize-payload %R~a* %W~b ~c* ~d resetchannels &e* -@all"),
        ("%R~a %W~a", "off sanitize-payload ~a resetchannels -@all"),
        ("~a ~* &* +@all", "off sanitize-payload ~* &* +@all"),
        ("+@all -get", "off sanitize-payload resetchannels +@all -get"),
        ("+@all -get +GET", "off sanitize-payload resetchannels +@all +get"),
        ("+config|get -config +@READ", "off sanitize-payload resetchannels -@all -config +@read"),
        ("+config -config|get", "off sanitize-payload resetchannels -@all +config -config|get"),
        ("+select|0 +select|1", "off sanitize-payload resetchannels -@all +select|0 +select|1"),
        (
            "+get (~a +set) ( %R~b +get )",
            "off sanitize-payload resetchannels -@all +get (~a resetchannels -@all +set) (%R~b resetchannels -@all +get)",
        ),
        ("(~a +set) clearselectors", "off sanitize-payload resetchannels -@all"),
        ("on >x ~* +@all reset", "off sanitize-payload resetchannels -@all"),
        ("skip-sanitize-payload", "off skip-sanitize-payload resetchannels -@all"),
    ] {
        assert_eq!(text(&user(given)), *shown, "{given}");
    }
    assert_eq!(text(&User::all_powerful("default", 0)), "on nopass sanitize-payload ~* &* +@all");
}

#[test]
fn mistakes_have_the_texts_of_redis_and_change_nothing() {
    for (given, text) in [
        ("+nope", "Error in ACL SETUSER modifier '+nope': Unknown command or category name in ACL"),
        ("-get|x", "Error in ACL SETUSER modifier '-get|x': Unknown command or category name in ACL"),
        ("+@nope", "Error in ACL SETUSER modifier '+@nope': Unknown command or category name in ACL"),
        ("+config|nope", "Error in ACL SETUSER modifier '+config|nope': Unknown command or category name in ACL"),
        (
            "+config|get|x",
            "Error in ACL SETUSER modifier '+config|get|x': Allowing first-arg of a subcommand is not supported",
        ),
        ("+select|", "Error in ACL SETUSER modifier '+select|': Syntax error"),
        ("nonsense", "Error in ACL SETUSER modifier 'nonsense': Syntax error"),
        ("%~x", "Error in ACL SETUSER modifier '%~x': Syntax error"),
        ("%RR~x", "Error in ACL SETUSER modifier '%RR~x': Syntax error"),
        ("%x", "Error in ACL SETUSER modifier '%x': Syntax error"),
        ("~a\tb", "Error in ACL SETUSER modifier '~a\tb': Syntax error"),
        (
            "#abc",
            "Error in ACL SETUSER modifier '#abc': The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
        ),
        (
            "<x",
            "Error in ACL SETUSER modifier '<x': The password you are trying to remove from the user does not exist",
        ),
        ("(+get ~x", "Unmatched parenthesis in acl selector starting at '(+get'."),
        ("(+get on)", "Error in ACL SETUSER modifier '(+get on)': Syntax error"),
    ] {
        let mut user = user("on ~a +get");
        let before = user.clone();
        assert_eq!(user.apply(&rules(&format!("off {given}"))).unwrap_err().to_string(), text, "{given}");
        assert_eq!(user, before, "{given}");
    }
    let mut full = user("~* &*");
    for (given, what) in [("~x", "'resetkeys'"), ("&x", "'resetchannels'")] {
        assert!(full.apply(&rules(given)).unwrap_err().to_string().contains(what));
    }
}

#[test]
fn passwords_open_only_their_user_and_only_if_it_is_on() {
    let mut alice = user("on >x >y");
    assert!(alice.admits(b"x") && alice.admits(b"y") && !alice.admits(b"") && !alice.admits(b"xy"));
    alice.apply(&rules("<x")).unwrap();
    assert!(!alice.admits(b"x") && alice.admits(b"y"));
    alice.apply(&rules("off")).unwrap();
    assert!(!alice.admits(b"y"));
    alice.apply(&rules("on nopass")).unwrap();
    assert!(alice.admits(b"whatever") && alice.is_open());
    alice.apply(&rules("resetpass")).unwrap();
    assert!(!alice.admits(b"whatever"));

    let users = Users::new([alice, User::all_powerful(DEFAULT_USER, 0)].map(std::sync::Arc::new));
    assert!(users.authenticate("alice", b"y").is_none() && users.authenticate("nobody", b"y").is_none());
    assert_eq!(users.authenticate("default", b"").map(|user| user.name()), Some("default"));
    assert!(!Users::default().are_known() && Users::default().open().is_none());
}

#[test]
fn what_is_refused_and_in_which_words() {
    let alice = user("on nopass ~app:* %R~pub:* +@all -flushall -config +config|get");
    for line in ["get app:1", "set app:1 x", "get pub:1", "mget app:1 pub:2", "config get x", "ping", "exists pub:1"] {
        assert_eq!(may(&alice, line), Ok(()), "{line}");
    }
    for (line, text) in [
        ("flushall", "NOPERM User alice has no permissions to run the 'flushall' command"),
        ("config set a b", "NOPERM User alice has no permissions to run the 'config|set' command"),
        ("get other", "NOPERM No permissions to access a key"),
        ("set pub:1 x", "NOPERM No permissions to access a key"),
        ("mget app:1 other", "NOPERM No permissions to access a key"),
        ("rename app:1 pub:1", "NOPERM No permissions to access a key"),
        ("getex pub:1", "NOPERM No permissions to access a key"),
    ] {
        assert_eq!(may(&alice, line).unwrap_err().reply(), Reply::error(text), "{line}");
    }
    let denied = may(&alice, "mget app:1 other").unwrap_err();
    assert_eq!(denied.full_text(), "User alice has no permissions to access the 'other' key");
    assert_eq!((denied.reason, denied.object), (Reason::Key, Bytes::from_static(b"other")));
}

#[test]
fn a_selector_allows_a_command_whole_or_not_at_all() {
    let alice = user("on nopass ~a +get (~b +set)");
    assert!(may(&alice, "get a").is_ok() && may(&alice, "set b x").is_ok());
    assert_eq!(may(&alice, "get b").unwrap_err().reason, Reason::Key);
    assert_eq!(may(&alice, "set a x").unwrap_err().reason, Reason::Key);
    assert_eq!(may(&alice, "del a").unwrap_err().reason, Reason::Command);
    // Together they would allow both keys, but no selector does alone.
    assert!(may(&user("~a (~b +@all) +mget"), "mget a b").is_err());
}

#[test]
fn nobody_is_kept_from_becoming_somebody_else() {
    let nobody = user("");
    for line in ["auth x", "hello 2", "quit", "reset"] {
        assert_eq!(may(&nobody, line), Ok(()), "{line}");
    }
    assert!(may(&nobody, "ping").is_err());
    assert!(may(&user("+select|0"), "select 0").is_ok() && may(&user("+select|0"), "select 1").is_err());
}

#[test]
fn categories_allow_what_is_in_them() {
    let reader = user("~* +@read -@dangerous");
    assert!(may(&reader, "get a").is_ok() && may(&reader, "set a b").is_err() && may(&reader, "keys *").is_err());
    assert!(user("+@admin").may_administer() && user("+@all").may_administer() && user("(+@admin)").may_administer());
    assert!(!user("+@all -@dangerous").may_administer() && !user("+config +info").may_administer());
    let last = user("~* +@all -@write +set");
    assert!(may(&last, "set a b").is_ok() && may(&last, "del a").is_err());
}

#[test]
fn a_document_of_a_newer_program_is_kept_as_it_is() {
    let document = b"1\n0000000000000007\non ~a resetchannels -@all +get +future.cmd -@future +get|x";
    let alice = User::parse("alice", document).unwrap();
    assert_eq!(text(&alice), "on sanitize-payload ~a resetchannels -@all +get +future.cmd -@future +get|x");
    assert!(may(&alice, "get a").is_ok());
    assert!(User::parse("alice", b"2\n0\non").is_err() && User::parse("alice", b"1\nx\non").is_err());
    assert!(User::parse("alice", b"").is_err());
}

fn any_rule() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "on",
        "off",
        "nopass",
        "resetpass",
        "allkeys",
        "resetkeys",
        "allchannels",
        "resetchannels",
        "allcommands",
        "nocommands",
        "clearselectors",
        "reset",
        "skip-sanitize-payload",
        "sanitize-payload",
        ">x",
        ">y",
        "<x",
        "+get",
        "-get",
        "+GET",
        "+config",
        "-config",
        "+config|get",
        "-config|set",
        "+select|0",
        "+select|1",
        "-select",
        "+@read",
        "-@read",
        "+@all",
        "-@all",
        "-@dangerous",
        "+@connection",
        "-@write",
        "+client|id",
        "-client",
        "(~a +get)",
        "(%R~x)*y &c +@all -set)",
        "()",
    ]);
    let pattern = prop::collection::vec(
        any::<u8>().prop_filter("no spaces", |b| !b.is_ascii_whitespace() && *b != 0 && *b != 0x0b),
        0..6,
    );
    let sign = prop::sample::select(vec!["~", "%R~", "%W~", "%rw~", "&"]);
    prop_oneof![
        4 => fixed.prop_map(|word: &str| word.as_bytes().to_vec()),
        1 => (sign, pattern).prop_map(|(sign, pattern): (&str, Vec<u8>)| [sign.as_bytes(), &pattern].concat()),
    ]
}

proptest! {
    #[test]
    fn a_user_is_the_same_behind_its_document_and_behind_its_text(words in prop::collection::vec(any_rule(), 0..20)) {
        let mut alice = User::new("alice", 0x1234);
        for word in words {
            // Some do not apply after others; they change nothing.
            let _ = alice.apply(&[word.into()]);
        }
        let parsed = User::parse("alice", &alice.document());
        prop_assert_eq!(parsed.as_ref(), Ok(&alice));
        // The text that users see parts selectors by parentheses, so it is only true without them in patterns.
        let text = alice.text();
        let (root, further) = match text.windows(2).position(|pair| pair == b" (") {
            Some(at) => (&text[..at], &text[at..]),
            None => (&text[..], &b""[..]),
        };
        if !further[..].windows(3).any(|w| w == b")*y") && !root.iter().any(|b| b"()\"'\\".contains(b)) {
            let mut again = User::new("alice", 0x1234);
            let words: Vec<Bytes> = text.split(|b| *b == b' ').map(Bytes::copy_from_slice).collect();
            prop_assert_eq!(again.apply(&words), Ok(()));
            prop_assert_eq!(again, alice);
        }
    }
}
