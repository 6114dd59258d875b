//! What `build.rs` makes of `proto/`: messages, clients and servers of the gRPC door, and the descriptors that
//! reflection serves, and the names that server and clients must spell alike. Holds no code of its own.

/// Package `hypercache.admin.v1`.
pub mod admin {
    #![allow(clippy::all, clippy::pedantic)]
    tonic::include_proto!("hypercache.admin.v1");
}

/// The encoded `FileDescriptorSet` of everything in `proto/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata of a refusal: the gRPC address of the node that leads the group.
pub const LEADER_METADATA: &str = "hypercache-leader-grpc";
/// Metadata of every refusal of our own: the code that `docs/hypercachectl.md` explains.
pub const CODE_METADATA: &str = "hypercache-code";

/// Codes of [`CODE_METADATA`].
pub mod codes {
    /// Another node leads the group.
    pub const NOT_LEADER: &str = "HC-3101";
    /// The group has no leader that this node knows of.
    pub const NO_LEADER: &str = "HC-3102";
    /// No such group, or no replica of it here.
    pub const NO_SUCH_GROUP: &str = "HC-3103";
    /// No such node, or not a voter of the group.
    pub const NO_SUCH_NODE: &str = "HC-3104";
    /// What was asked was tried and did not succeed.
    pub const NOT_DONE: &str = "HC-3105";
    /// It did not end in time; it may still.
    pub const TIMEOUT: &str = "HC-3106";
    /// An argument is wrong.
    pub const ARGUMENT: &str = "HC-3107";
    /// No user and password, or wrong ones.
    pub const NOT_AUTHENTICATED: &str = "HC-3108";
    /// The user may not do that.
    pub const NOT_PERMITTED: &str = "HC-3109";
    /// The node has not heard from its cluster yet who its users are.
    pub const USERS_UNKNOWN: &str = "HC-3110";
    /// Another node is joining or leaving.
    pub const NODES_BUSY: &str = "HC-3111";
    /// The name is that of another node.
    pub const USED_NAME: &str = "HC-3112";
    /// The node belongs to another cluster.
    pub const FOREIGN_NODE: &str = "HC-3113";
    /// Nobody waits to be added at the address.
    pub const NOBODY_WAITS: &str = "HC-3114";
    /// Too few nodes would be left.
    pub const TOO_FEW_NODES: &str = "HC-3115";
    /// The node was removed.
    pub const NODE_GONE: &str = "HC-3116";
    /// There are not nodes enough for what is wished.
    pub const CANNOT_PLACE: &str = "HC-3117";
    /// Another data directory than the one the cluster knows.
    pub const OTHER_DIRECTORY: &str = "HC-3118";
    /// The node belongs to the cluster already.
    pub const BELONGS: &str = "HC-3119";
    /// A founder never came so far.
    pub const NEVER_CAME: &str = "HC-3120";
    /// Gossip knows nobody of that name who waits.
    pub const NOT_HEARD: &str = "HC-3121";
    /// Gossip knows several of that name.
    pub const AMBIGUOUS: &str = "HC-3122";
    /// The group was removed.
    pub const GROUP_GONE: &str = "HC-3123";
    /// The group is being removed, or is to get slots.
    pub const GROUP_BUSY: &str = "HC-3124";
    /// It is the last group that holds keys.
    pub const LAST_GROUP: &str = "HC-3125";
    /// The group has not slots enough to be split.
    pub const CANNOT_SPLIT: &str = "HC-3126";
}
