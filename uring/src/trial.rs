//! The trial of a fresh ring: one connection over loopback, before anything depends on it.

use std::net::{Ipv4Addr, SocketAddr};

use crate::caps::SelfTestStep;
use crate::kernel::KernelReactor;
use crate::reactor::{End, Endpoint, Event, Nanos, Outgoing, Reactor, SocketId, Wait};

/// Accepts, receives twice, sends, stops, starts, sees the end, closes. A host without loopback is no
/// fault of the ring and passes.
pub(crate) fn run(reactor: &mut KernelReactor) -> Result<(), SelfTestStep> {
    let any_port = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let Ok(listener) = reactor.listen(&any_port, 4) else {
        return Ok(());
    };
    let Some(address) = reactor.local_addr(listener) else {
        return Err(SelfTestStep::Accept);
    };
    let Ok(client) = reactor.connect(&Endpoint::Tcp(address)) else {
        reactor.close(listener);
        return Ok(());
    };
    let mut trial = Trial {
        deadline: reactor.now() + DEADLINE,
        reactor,
        seen: Seen::default(),
    };
    trial.until(SelfTestStep::Accept, |seen| {
        seen.accepted.is_some() && seen.connected
    })?;
    let Some(server) = trial.seen.accepted else {
        return Err(SelfTestStep::Accept);
    };
    trial.reactor.start_receiving(server);
    trial.exchange(client, b"first", SelfTestStep::FirstReceive)?;
    trial.exchange(client, b"second", SelfTestStep::SecondReceive)?;
    trial.reactor.stop_receiving(server);
    trial.reactor.start_receiving(server);
    trial.exchange(client, b"third", SelfTestStep::SecondReceive)?;
    trial.reactor.finish_sending(client);
    trial.until(SelfTestStep::EndOfStream, |seen| seen.has_ended)?;
    for socket in [client, server, listener] {
        trial.reactor.close(socket);
    }
    trial.until(SelfTestStep::Close, |seen| seen.closed == 3)
}

struct Trial<'a> {
    reactor: &'a mut KernelReactor,
    deadline: Nanos,
    seen: Seen,
}

#[derive(Default)]
struct Seen {
    accepted: Option<SocketId>,
    connected: bool,
    data: Vec<u8>,
    sent: usize,
    has_ended: bool,
    closed: usize,
}

impl Trial<'_> {
    fn exchange(
        &mut self,
        client: SocketId,
        text: &[u8],
        step: SelfTestStep,
    ) -> Result<(), SelfTestStep> {
        self.seen.data.clear();
        self.seen.sent = 0;
        if self
            .reactor
            .send(client, Outgoing::Block(text.to_vec()))
            .is_err()
        {
            return Err(SelfTestStep::Send);
        }
        self.until(step, |seen| seen.data == text)?;
        self.until(SelfTestStep::Send, |seen| seen.sent == 1)
    }

    fn until(
        &mut self,
        step: SelfTestStep,
        done: impl Fn(&Seen) -> bool,
    ) -> Result<(), SelfTestStep> {
        let mut events = Vec::new();
        while !done(&self.seen) {
            if self.reactor.now() >= self.deadline {
                return Err(step);
            }
            if self
                .reactor
                .turn(Wait::Until(self.deadline), &mut events)
                .is_err()
            {
                return Err(SelfTestStep::Turn);
            }
            for event in events.drain(..) {
                self.note(event);
            }
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Accepted { socket, .. } => self.seen.accepted = Some(socket),
            Event::Connected { result, .. } => self.seen.connected = result.is_ok(),
            Event::Received { lease, .. } => {
                self.seen
                    .data
                    .extend_from_slice(self.reactor.received(&lease));
                self.reactor.give_back(lease);
            }
            Event::ReceiveEnded { end, .. } => self.seen.has_ended = end == End::Eof,
            Event::Sent { result, .. } => self.seen.sent += usize::from(result.is_ok()),
            Event::Closed { .. } => self.seen.closed += 1,
            _ => {}
        }
    }
}

/// A loopback round trip takes microseconds; a host that takes this long is stuck.
const DEADLINE: Nanos = 2_000_000_000;
