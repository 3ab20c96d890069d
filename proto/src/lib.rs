//! The contract: gRPC package `postrider.v1`, generated from `proto/postrider/v1/*.proto`.
//!
//! Generated types stay at the edges: the rest of the code speaks `postrider_common`.

/// Everything of package `postrider.v1`. Maps are ordered, so an encoding is deterministic.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("postrider.v1");
}

/// The encoded `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
