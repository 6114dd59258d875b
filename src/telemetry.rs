//! Logs: to standard error and to a rolling file, as text or JSON, with a level that can change while the server runs.
//!
//! Writing never holds up the server: the file has a thread and a bounded queue of its own, and when the disk does not
//! keep up, lines are dropped instead. Started once a process. Standard output stays free for what a command prints.

use crate::config::{LogFormat, LogLevel, Logging, Raw, Rotation, Setting};
use parking_lot::Mutex;
use std::fs;
use std::io::{self, IsTerminal, Read, Seek};
use std::path::Path;
use std::sync::OnceLock;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The target of security events. They are written at any level, unless the level names them.
const AUDIT: &str = "audit";
/// Lines that may wait for the disk before further ones are dropped.
const FILE_QUEUE_LINES: usize = 16_384;

/// The filter in force and its handle.
struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    level: Mutex<String>,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Keeps the log file's thread alive. Dropping it writes out what waits.
pub struct Guard {
    _files: Vec<WorkerGuard>,
}

/// Why logs could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("logging.level: {0}")]
    Level(String),
    #[error("{0}: {1} cannot be written: {2}")]
    File(&'static str, String, String),
    #[error("logs have been started already")]
    Started,
    #[error("logs have not been started")]
    NotStarted,
}

/// openraft tells every step of its own at INFO; ours are the ones a human wants. chitchat warns of every datagram that it cannot
/// read, and anybody can send those. Whoever names them gets what is asked.
fn filter_of(level: &LogLevel) -> Result<EnvFilter, TelemetryError> {
    let mut directives = level.0.clone();
    // What comes first gives way to what follows.
    for (module, usual) in [("openraft", "warn"), ("chitchat", "off"), (AUDIT, "info")] {
        if !level.0.contains(module) {
            directives = format!("{module}={usual},{directives}");
        }
    }
    let quieter = directives;
    EnvFilter::builder().parse(quieter).map_err(|error| TelemetryError::Level(error.to_string()))
}

/// Starts writing logs. Once a process; the guard must live as long as the server.
pub fn start(settings: &Logging) -> Result<Guard, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter_of(&settings.level)?);
    let mut writers: Vec<Box<dyn Layer<_> + Send + Sync>> = Vec::new();
    let mut guard = Guard { _files: Vec::new() };
    let apart = !settings.audit_file.as_os_str().is_empty();
    if settings.console {
        let colours = std::io::stderr().is_terminal();
        let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
        let layer = match settings.format {
            LogFormat::Text => layer.boxed(),
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
        };
        writers.push(layer.with_filter(filter_fn(move |event| !(apart && event.target() == AUDIT))).boxed());
    }
    for (file, audit) in [(&settings.file, false), (&settings.audit_file, true)] {
        if file.as_os_str().is_empty() {
            continue;
        }
        let setting = if audit { "logging.audit_file" } else { "logging.file" };
        let (queue, writing) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(FILE_QUEUE_LINES)
            .finish(file_of(settings, setting, file)?);
        let layer = fmt::layer().with_writer(queue).with_ansi(false);
        let layer = match settings.format {
            LogFormat::Text => layer.boxed(),
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
        };
        let wanted = move |is_audit: bool| if audit { is_audit } else { !(apart && is_audit) };
        writers.push(layer.with_filter(filter_fn(move |event| wanted(event.target() == AUDIT))).boxed());
        guard._files.push(writing);
    }
    tracing_subscriber::registry().with(filter).with(writers).try_init().map_err(|_| TelemetryError::Started)?;
    let level = Mutex::new(settings.level.0.clone());
    FILTER.set(Filter { handle, level }).map_err(|_| TelemetryError::Started)?;
    Ok(guard)
}

/// The end of the newest file of a log whose name is configured as `path`: at most so many bytes. Blocks.
pub fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (folder, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name().unwrap_or_default());
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let prefix = name.to_string_lossy();
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Names end in the date, so the last one is the newest.
        if entry.file_name().to_string_lossy().starts_with(&*prefix) {
            files.push(entry.path());
        }
    }
    let newest = files.into_iter().max().ok_or(io::ErrorKind::NotFound)?;
    let mut file = fs::File::open(newest)?;
    let begin = file.metadata()?.len().saturating_sub(most);
    file.seek(io::SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn file_of(
    settings: &Logging,
    setting: &'static str,
    path: &Path,
) -> Result<rolling::RollingFileAppender, TelemetryError> {
    let refuse = |why: String| TelemetryError::File(setting, path.display().to_string(), why);
    let name = path.file_name().ok_or_else(|| refuse("it names no file".to_owned()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let rotation = match settings.rotation {
        Rotation::Hourly => rolling::Rotation::HOURLY,
        Rotation::Daily => rolling::Rotation::DAILY,
        Rotation::Never => rolling::Rotation::NEVER,
    };
    rolling::Builder::new()
        .rotation(rotation)
        .filename_prefix(name.to_string_lossy())
        .max_log_files(settings.keep_files as usize)
        .build(folder)
        .map_err(|error| refuse(error.to_string()))
}

/// Changes what is logged from now on, for every thread.
pub fn set_level(level: &str) -> Result<(), TelemetryError> {
    let wanted = LogLevel::parse(&Raw::Text(level.to_owned())).map_err(TelemetryError::Level)?;
    let parsed = filter_of(&wanted)?;
    let filter = FILTER.get().ok_or(TelemetryError::NotStarted)?;
    let mut current = filter.level.lock();
    filter.handle.reload(parsed).map_err(|_| TelemetryError::NotStarted)?;
    *current = wanted.0;
    Ok(())
}

/// The level in force; nothing before [`start`].
pub fn level() -> Option<String> {
    FILTER.get().map(|filter| filter.level.lock().clone())
}
