//! Tests of the test tools themselves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use support::{Node, Process, Proxy, eventually_blocking, shared};

const SOON: Duration = Duration::from_secs(10);

/// Starts a server that echoes every byte.
fn echo_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut writer = client.try_clone().expect("a second handle");
                let _ = std::io::copy(&mut &client, &mut writer);
            });
        }
    });
    address
}

fn exchange(socket: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    socket.write_all(&[byte])?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    Ok(answer[0])
}

fn connect(proxy: &Proxy) -> TcpStream {
    let socket = TcpStream::connect(proxy.address()).expect("the proxy listens");
    socket.set_read_timeout(Some(SOON)).expect("a time-out");
    socket
}

#[test]
fn the_proxy_passes_on_cuts_stalls_and_refuses() {
    let proxy = Proxy::start(echo_server());
    let mut first = connect(&proxy);
    assert_eq!(exchange(&mut first, 7).expect("an answer"), 7);
    assert_eq!((proxy.accepted(), proxy.open(), proxy.bytes()), (1, 1, 2));

    proxy.stall(true);
    first.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    let stalled = exchange(&mut first, 8).expect_err("nothing passes");
    assert!(matches!(stalled.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    proxy.stall(false);
    first.set_read_timeout(Some(SOON)).expect("a time-out");
    let mut late = [0];
    first.read_exact(&mut late).expect("what was held back arrives");
    assert_eq!(late, [8]);

    proxy.cut();
    eventually_blocking("the connection is gone", SOON, || (proxy.open() == 0).then_some(()));
    assert!(exchange(&mut first, 9).is_err());
    assert_eq!(exchange(&mut connect(&proxy), 10).expect("a new connection works"), 10);

    proxy.refuse(true);
    eventually_blocking("nobody listens", SOON, || TcpStream::connect(proxy.address()).err());
    proxy.refuse(false);
    eventually_blocking("somebody listens again", SOON, || {
        let mut socket = TcpStream::connect(proxy.address()).ok()?;
        exchange(&mut socket, 11).ok()
    });
}

#[test]
fn a_process_is_watched_signalled_and_collected() {
    // It prints `ready` only once it handles the signal.
    let script = "trap 'echo bye >&2; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let process = Process::spawn(Command::new("sh").args(["-c", script]));
    process.wait_for_line("ready", SOON);
    process.signal(rustix::process::Signal::TERM);
    let ended = process.wait(SOON);
    assert_eq!(
        (ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(3), "ready", "bye")
    );
}

#[test]
#[should_panic(expected = "no line with `never`, it ended")]
fn waiting_for_a_line_ends_with_the_process() {
    Process::spawn(Command::new("sh").args(["-c", "echo other"])).wait_for_line("never", SOON);
}

#[test]
fn a_node_of_its_own_starts_survives_a_kill_and_leaves_nothing() {
    if !shared::may_start_rabbitmq(file!()) {
        return;
    }
    let mut node = Node::start();
    let directory = node.ctl.directory().to_owned();
    node.ctl.run(["add_vhost", "kept"]);
    node.restart();
    assert!(node.ctl.run(["list_vhosts", "name"]).contains("kept"));
    node.set_memory_alarm(true);
    assert!(node.ctl.run(["eval", "rabbit_alarm:get_alarms()."]).contains("memory"));
    node.set_memory_alarm(false);
    node.set_disk_alarm(true);
    assert!(node.ctl.run(["eval", "rabbit_alarm:get_alarms()."]).contains("disk"));
    node.set_disk_alarm(false);
    node.close_all_connections();
    let port = node.port();
    drop(node);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it still listens");
    assert!(!directory.exists(), "its directory is still there");
    // Every process of the node has the directory in its environment.
    let mut left = Vec::new();
    for process in std::fs::read_dir("/proc").expect("a Linux system").flatten() {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&directory.display().to_string()) {
            left.push(std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default());
        }
    }
    assert!(left.is_empty(), "left behind: {left:?}");
}
