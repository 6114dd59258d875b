//! Turns `proto/` into Rust. protox compiles the files itself, so no protoc has to be installed; the descriptor set
//! is kept for the reflection service.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(["admin.proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        // Of all bytes these are the many: they are passed on as they are.
        .bytes(".hypercache.admin.v1.SnapshotPart.chunk")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
