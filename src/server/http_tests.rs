//! The HTTP door over a loopback socket, spoken to byte by byte: every shape that `docs/http.md` promises.

use super::*;
use crate::server::testing;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A door that is open for as long as this lives.
struct Open {
    overview: Arc<Overview>,
    address: SocketAddr,
    close: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<io::Result<()>>,
}

struct Answer {
    status: u16,
    headers: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

async fn open_with(options: Options) -> Open {
    let overview = testing::one_node().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closed) = oneshot::channel::<()>();
    let stop = async move { drop(closed.await) };
    let served = tokio::spawn(serve(listener, Arc::clone(&overview), options, stop));
    Open { overview, address, close: Some(close), served }
}

async fn open() -> Open {
    open_with(Options::default()).await
}

impl Open {
    async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (headers, body) = text.split_once("\r\n\r\n").unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, headers: headers.to_owned(), body: body.to_owned() }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n");
        self.raw(format!("{head}\r\n{body}").as_bytes()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    async fn put(&self, path: &str, body: &str) -> Answer {
        self.ask("PUT", path, body).await
    }
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn assert_error(answer: &Answer, status: u16, code: &str, operation: &str, key: Value) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let body = answer.json();
    assert_eq!(body["success"], false);
    let mut fields = names(&body["error"]);
    fields.sort_unstable();
    assert_eq!(fields, ["code", "key", "message", "operation"]);
    assert_eq!(body["error"]["code"], code, "{body}");
    assert_eq!(body["error"]["operation"], operation);
    assert_eq!(body["error"]["key"], key);
    assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()));
}

#[tokio::test]
async fn put_get_delete_have_the_promised_shapes() {
    let door = open().await;
    let put = door.put("/api/cache/greeting", r#"{"value":"hello","ttl":3600}"#).await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(put.header("content-type"), Some("application/json"));
    let put = put.json();
    let (version, index) = (put["version"].as_u64().unwrap(), put["index"].as_u64().unwrap());
    let expected = json!({"success": true, "message": "Stored locally", "node": "1", "primary": "node-1",
        "version": version, "index": index});
    assert_eq!(put, expected);

    let get = door.get("/api/cache/greeting").await;
    assert_eq!(get.status, 200);
    let get = get.json();
    let seen_at = get["index"].as_u64().unwrap();
    assert!(seen_at >= index);
    let expected = json!({"success": true, "data": {"key": "greeting", "value": "hello"}, "node": "1",
        "primary": "node-1", "local": true, "forwarded": false, "version": version, "index": seen_at});
    assert_eq!(get, expected);

    let delete = door.ask("DELETE", "/api/cache/greeting", "").await;
    assert_eq!(delete.status, 200);
    let delete = delete.json();
    let expected = json!({"success": true, "message": "Delete processed", "node": "1", "primary": "node-1",
        "deleted": true, "index": delete["index"].as_u64().unwrap()});
    assert_eq!(delete, expected);
    let again = door.ask("DELETE", "/api/cache/greeting", "").await;
    assert_eq!((again.status, &again.json()["deleted"]), (200, &Value::Bool(false)));
}

#[tokio::test]
async fn a_miss_is_404_and_says_where_it_was_looked_for() {
    let door = open().await;
    let miss = door.get("/api/cache/none").await;
    assert_error(&miss, 404, "NOT_FOUND", "get", "none".into());
    let miss = miss.json();
    assert_eq!(
        (&miss["node"], &miss["primary"], &miss["local"], &miss["forwarded"]),
        (&json!("1"), &json!("node-1"), &json!(true), &json!(false))
    );
}

#[tokio::test]
async fn post_is_put_and_a_rewrite_raises_the_version() {
    let door = open().await;
    let first = door.ask("POST", "/api/cache/k", r#"{"value":"1"}"#).await.json();
    let second = door.ask("POST", "/api/cache/k", r#"{"value":"2","ttl":null}"#).await.json();
    assert!(second["version"].as_u64() > first["version"].as_u64());
    assert!(second["index"].as_u64() > first["index"].as_u64());
    assert_eq!(door.get("/api/cache/k").await.json()["data"]["value"], "2");
}

#[tokio::test]
async fn a_key_whose_time_has_passed_is_a_miss_and_stays_one() {
    let door = open().await;
    assert_eq!(door.put("/api/cache/k", r#"{"value":"v","ttl":0.02}"#).await.status, 200);
    // Nobody writes meanwhile: only a tick that the read itself asks for can move the group's clock on.
    while door.get("/api/cache/k").await.status != 404 {}
    assert_eq!(door.get("/api/cache/k?consistency=eventual").await.status, 404);
}

#[tokio::test]
async fn every_level_is_taken_and_others_are_not() {
    let door = open().await;
    door.put("/api/cache/k", r#"{"value":"v"}"#).await;
    for level in ["linearizable", "lease", "eventual", "bounded:1000", "LEASE"] {
        let answer = door.get(&format!("/api/cache/k?consistency={level}")).await;
        assert_eq!(answer.status, 200, "{level}: {}", answer.body);
    }
    for level in ["strong", "bounded", "bounded:soon", ""] {
        let answer = door.get(&format!("/api/cache/k?consistency={level}")).await;
        assert_error(&answer, 400, "BAD_CONSISTENCY", "get", "k".into());
    }
}

#[tokio::test]
async fn bytes_that_are_not_text_travel_as_base64() {
    let door = open().await;
    let put = door.put("/api/cache/bin", r#"{"value":"/wABAg==","encoding":"base64"}"#).await;
    assert_eq!(put.status, 200, "{}", put.body);
    let data = door.get("/api/cache/bin").await.json()["data"].clone();
    assert_eq!(data, json!({"key": "bin", "value": "/wABAg==", "encoding": "base64"}));
    // Text that came as base64 goes out as text.
    door.put("/api/cache/txt", r#"{"value":"aGk=","encoding":"base64"}"#).await;
    assert_eq!(door.get("/api/cache/txt").await.json()["data"], json!({"key": "txt", "value": "hi"}));
    let bad = door.put("/api/cache/bin", r#"{"value":"no base64!","encoding":"base64"}"#).await;
    assert_error(&bad, 400, "BAD_BODY", "put", "bin".into());
}

#[tokio::test]
async fn keys_are_bytes_and_may_hold_slashes() {
    let door = open().await;
    door.put("/api/cache/a/b%2Fc%20d", r#"{"value":"v"}"#).await;
    assert_eq!(door.get("/api/cache/a/b/c%20d").await.json()["data"]["key"], "a/b/c d");
    door.put("/api/cache/%ff%00", r#"{"value":"v"}"#).await;
    let data = door.get("/api/cache/%FF%00").await.json()["data"].clone();
    assert_eq!(data, json!({"key": "/wA=", "key_encoding": "base64", "value": "v"}));
    let bad = door.get("/api/cache/100%").await;
    assert_error(&bad, 400, "BAD_KEY", "get", "100%".into());
}

#[tokio::test]
async fn a_body_that_is_not_what_it_must_be_is_a_clear_400() {
    let door = open().await;
    let bodies = [
        "",
        "not json",
        "[1]",
        "{}",
        r#"{"value":5}"#,
        r#"{"value":"v","ttl":"soon"}"#,
        r#"{"value":"v","ttl":0}"#,
        r#"{"value":"v","ttl":-1}"#,
        r#"{"value":"v","ttl":1e300}"#,
        r#"{"value":"v","tttl":5}"#,
        r#"{"value":"v","encoding":"rot13"}"#,
        r#"{"value":"v"} and more"#,
    ];
    for body in bodies {
        let answer = door.put("/api/cache/k", body).await;
        assert_error(&answer, 400, "BAD_BODY", "put", "k".into());
    }
    assert_eq!(door.get("/api/cache/k").await.status, 404);
    // Bytes that are not UTF-8 are no JSON either.
    let raw = b"PUT /api/cache/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\n\xff\xfe\xfd";
    assert_error(&door.raw(raw).await, 400, "BAD_BODY", "put", "k".into());
}

#[tokio::test]
async fn too_long_keys_and_values_are_refused_and_the_door_stays_open() {
    let options = Options { max_value_bytes: 1000, max_key_bytes: 100, ..Options::default() };
    let door = open_with(options).await;
    let fits = format!(r#"{{"value":"{}"}}"#, "v".repeat(1000));
    assert_eq!(door.put(&format!("/api/cache/{}", "k".repeat(100)), &fits).await.status, 200);
    let long = format!(r#"{{"value":"{}"}}"#, "v".repeat(1001));
    assert_error(&door.put("/api/cache/k", &long).await, 413, "VALUE_TOO_LARGE", "put", "k".into());
    let key = "k".repeat(101);
    let answer = door.put(&format!("/api/cache/{key}"), &fits).await;
    assert_error(&answer, 414, "KEY_TOO_LARGE", "put", "k".repeat(64).into());
    assert_eq!(door.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_body_longer_than_any_value_is_refused_before_it_is_read() {
    let door = open_with(Options { max_value_bytes: 1000, ..Options::default() }).await;
    let head = b"PUT /api/cache/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", 20_000, "v".repeat(20_000));
    let answer = door.raw(&[&head[..], chunk.as_bytes()].concat()).await;
    assert_error(&answer, 413, "VALUE_TOO_LARGE", "put", "k".into());
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_its_time() {
    let door = open_with(Options { request_timeout: Duration::from_millis(20), ..Options::default() }).await;
    let half = b"PUT /api/cache/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 30\r\n\r\n{\"val";
    assert_error(&door.raw(half).await, 408, "TIMEOUT", "put", "k".into());
}

#[tokio::test]
async fn a_request_without_time_is_refused_as_not_applied() {
    let door = open_with(Options { request_timeout: Duration::ZERO, ..Options::default() }).await;
    let answer = door.ask("DELETE", "/api/cache/k", "").await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn health_pages_say_what_is_so() {
    let door = open().await;
    let health = door.get("/health").await;
    assert_eq!((health.status, health.json()), (200, json!({"healthy": true, "node": "1", "cluster_size": 1})));
    assert_eq!(door.get("/livez").await.json(), json!({"live": true}));
    let ready = door.get("/readyz").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true, "waiting": []})));
    let started = door.get("/startupz").await;
    assert_eq!((started.status, started.json()), (200, json!({"started": true})));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let door = open().await;
    door.put("/api/cache/k", r#"{"value":"v"}"#).await;
    let page = door.get("/metrics").await;
    assert_eq!(page.header("content-type"), Some(metrics::CONTENT_TYPE));
    let lines: Vec<&str> = page.body.lines().collect();
    for wanted in [
        "# TYPE hypercache_group_term gauge",
        "# TYPE hypercache_http_requests_total counter",
        "hypercache_group_keys{group=\"1\"} 1",
        "hypercache_group_leader{group=\"1\"} 1",
        "hypercache_http_requests_total{operation=\"put\",status=\"200\"} 1",
        "hypercache_ready 1",
    ] {
        assert!(lines.contains(&wanted), "{wanted} in\n{}", page.body);
    }
    assert!(page.body.contains("hypercache_process_resident_memory_bytes "));
    assert!(page.body.contains("hypercache_build_info{version=\""));
    // Every family is typed once, before its samples.
    let typed: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let unique: std::collections::BTreeSet<&str> = typed.iter().copied().collect();
    assert_eq!(typed.len(), unique.len());
}

#[tokio::test]
async fn stats_and_cluster_are_json() {
    let door = open().await;
    door.put("/api/cache/k", r#"{"value":"v","ttl":9.5}"#).await;
    let stats = door.get("/api/stats").await.json();
    assert_eq!((&stats["success"], &stats["keys"], &stats["expires"]), (&json!(true), &json!(1), &json!(1)));
    let cluster = door.get("/api/cluster").await.json();
    assert_eq!(cluster["nodes"][0]["id"], 1);
    assert_eq!(names(&cluster["nodes"][0]["addresses"]).len(), 5);
    let slots: u64 = cluster["groups"].as_array().unwrap().iter().map(|group| group["slots"].as_u64().unwrap()).sum();
    assert_eq!(slots, 16_384);
}

#[tokio::test]
async fn what_is_not_there_is_a_typed_error_too() {
    let door = open().await;
    assert_error(&door.get("/nothing").await, 404, "NO_SUCH_PAGE", "route", Value::Null);
    assert_error(&door.get("/api/cache/").await, 404, "NO_SUCH_PAGE", "route", Value::Null);
    assert_error(&door.ask("PATCH", "/api/cache/k", "{}").await, 405, "NO_SUCH_METHOD", "route", Value::Null);
}

#[tokio::test]
async fn a_request_id_goes_back_and_is_made_where_there_is_none() {
    let door = open().await;
    let with = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: mine-7\r\n\r\n";
    assert_eq!(door.raw(with).await.header("x-request-id"), Some("mine-7"));
    assert_eq!(door.get("/livez").await.header("x-request-id").map(str::len), Some(16));
}

#[tokio::test]
async fn garbage_closes_its_own_connection_alone() {
    let door = open().await;
    let answer = door.raw(b"\x16\x03\x01 not http at all\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    assert_eq!(door.get("/livez").await.status, 200);
}

#[tokio::test]
async fn it_stops_when_told_though_a_connection_is_open() {
    let mut door = open_with(Options { request_timeout: Duration::from_millis(50), ..Options::default() }).await;
    let mut idle = TcpStream::connect(door.address).await.unwrap();
    idle.write_all(b"GET /livez HT").await.unwrap();
    assert_eq!(door.get("/livez").await.status, 200);
    door.close.take().unwrap().send(()).unwrap();
    (&mut door.served).await.unwrap().unwrap();
}

#[test]
fn every_kind_of_error_has_its_status() {
    let subject = Subject { operation: "put", key: Bytes::from_static(b"k") };
    for (text, status) in [
        ("OOM command not allowed", 507),
        ("THROTTLED slow down", 429),
        ("CLUSTERDOWN no leader", 503),
        ("TRYAGAIN later", 503),
        ("UNCERTAIN entry 5", 504),
        ("ERR syntax error", 400),
        ("WRONGTYPE Operation against a key", 400),
    ] {
        let failure = subject.said(text.as_bytes());
        assert_eq!(failure.status.as_u16(), status, "{text}");
        assert_eq!(format!("{} {}", failure.code, failure.message), text);
    }
    let uncertain = subject.uncertain(Some(9));
    assert_eq!((uncertain.status.as_u16(), uncertain.beside["index"].as_u64()), (504, Some(9)));
}

#[test]
fn a_positive_ttl_never_becomes_none() {
    assert_eq!(request::ttl_ms(3600.0), Ok(3_600_000));
    assert_eq!(request::ttl_ms(0.0001), Ok(1));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
        assert!(request::ttl_ms(bad).is_err(), "{bad}");
    }
}

impl Open {
    async fn as_user(&self, header: &str, method: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n");
        self.raw(format!("{head}authorization: {header}\r\n\r\n{body}").as_bytes()).await
    }

    async fn change(&self, change: commands::acl::Change) {
        let deadline = env::now() + Duration::from_secs(20);
        assert_eq!(self.overview.cluster().change_users(change, deadline).await, Reply::OK);
    }
}

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64.encode(pair))
}

#[tokio::test]
async fn without_the_right_password_only_the_open_pages_answer() {
    let door = open().await;
    door.change(commands::acl::Change::DefaultPassword(Some(Bytes::from_static(b"secret")))).await;
    for page in OPEN_PAGES {
        assert_eq!(door.get(page).await.status, 200, "{page}");
    }
    for page in ["/api/cache/k", "/api/stats", "/api/cluster", "/metrics", "/health", "/nonsense"] {
        let answer = door.get(page).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Basic realm=\"hypercache\"")),
            "{page}"
        );
        assert_eq!(answer.json()["error"]["code"], "NOAUTH");
        let answer = door.as_user(&basic("default:wrong"), "GET", page, "").await;
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (401, Some("WRONGPASS")), "{page}");
    }
    for header in [basic("default:secret"), basic(":secret"), "Bearer secret".to_owned()] {
        assert_eq!(door.as_user(&header, "GET", "/api/stats", "").await.status, 200, "{header}");
    }
    assert_error(&door.get("/api/cache/k").await, 401, "NOAUTH", "get", Value::Null);
}

#[tokio::test]
async fn a_users_keys_and_commands_are_the_same_as_in_resp() {
    let door = open().await;
    let rules = ["on", ">pw", "~app:*", "%R~pub:*", "+get", "+set"].map(|rule| Bytes::from_static(rule.as_bytes()));
    door.change(commands::acl::Change::Set { name: "alice".to_owned(), rules: rules.to_vec() }).await;
    let alice = basic("alice:pw");
    let body = r#"{"value":"x"}"#;
    assert_eq!(door.as_user(&alice, "PUT", "/api/cache/app:1", body).await.status, 200);
    assert_eq!(door.as_user(&alice, "GET", "/api/cache/app:1", "").await.status, 200);
    assert_eq!(door.as_user(&alice, "GET", "/api/cache/pub:1", "").await.status, 404);
    assert_error(&door.as_user(&alice, "PUT", "/api/cache/pub:1", body).await, 403, "NOPERM", "put", "pub:1".into());
    assert_error(&door.as_user(&alice, "GET", "/api/cache/x", "").await, 403, "NOPERM", "get", "x".into());
    assert_error(
        &door.as_user(&alice, "DELETE", "/api/cache/app:1", "").await,
        403,
        "NOPERM",
        "delete",
        "app:1".into(),
    );
    assert_error(&door.as_user(&alice, "GET", "/metrics", "").await, 403, "NOPERM", "metrics", Value::Null);
    assert_eq!(door.as_user(&alice, "GET", "/health", "").await.status, 200);
}
