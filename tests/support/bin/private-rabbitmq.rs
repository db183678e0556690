//! Starts a private RabbitMQ node, prints its address in two lines that a shell can read, and stops it when its input ends.

use std::io::{Read, Write};

use support::{Node, shared};

fn main() -> std::io::Result<()> {
    let node = Node::start();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}={}", shared::URL, node.url())?;
    writeln!(out, "{}={}", shared::DIRECTORY, node.ctl.directory().display())?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(node);
    Ok(())
}
