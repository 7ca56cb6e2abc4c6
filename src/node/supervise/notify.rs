//! Tells a service manager how the service is (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET`
//! names.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

use uring::sys;

/// Where to tell; nowhere if nobody asked.
pub(super) struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Of what the environment says.
    pub fn new(socket: Option<String>) -> Self {
        let at = socket.and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        Self(at.and_then(|at| Some((UnixDatagram::unbound().ok()?, at))))
    }

    /// The service is up, and by whom.
    pub fn serves(&self, pid: u32) {
        self.tell(&format!("READY=1\nSTATUS=process {pid} serves\n"));
    }

    /// Another program is to take over. `serves` follows.
    pub fn reloads(&self) {
        let now = sys::monotonic_ns() / 1000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=another process takes over\n"
        ));
    }

    /// What is going on, in words.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}\n", text.replace('\n', " ")));
    }

    /// The service ends.
    pub fn stops(&self) {
        self.tell("STOPPING=1\nSTATUS=the node ends\n");
    }

    fn tell(&self, text: &str) {
        if let Some((socket, at)) = &self.0 {
            // A manager that does not listen is not waited for.
            let _ = socket.send_to_addr(text.as_bytes(), at);
        }
    }
}
