//! Sockets between nodes and of RESP clients: the operating system's, or, where time is simulated too, those of a simulated
//! network.
//!
//! The one seam below the links and the RESP doors. Both sides have the same names, so whoever uses them knows of neither.
//! HTTP and gRPC are not simulated and take tokio's sockets as they are.

#[cfg(not(feature = "sim"))]
mod system;
#[cfg(not(feature = "sim"))]
pub use system::{Moving, TcpListener, TcpStream, WriteHalf, connect, listen, tune_client, tune_link};

#[cfg(feature = "sim")]
mod simulated;
#[cfg(feature = "sim")]
pub use simulated::{Moving, TcpListener, TcpStream, WriteHalf, connect, listen, tune_client, tune_link};
