//! Compiles the wire protocol with a protobuf compiler that is a library, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/control.proto"], ["proto"])?;
    // `Bytes` and not `Vec`: payloads are slices of the received buffer, never copied.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
