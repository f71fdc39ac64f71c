//! The endpoints of GDB: a session or a refusal behind a channel.

use super::ChannelPort;
use alloc::boxed::Box;
use devices::channel::{Channel, ChannelEvent};
use devices::mmio::MmioRegion;
use devices::virtio::Console;
use probes::space::Space;
use stub::{ByteChannel, Session, Unavailable};

/// Anything that carries a debugger: a virtio port, or the physical PL011.
pub type DebugChannel = Box<dyn Channel + Send>;

/// The endpoint of a VM.
pub struct Endpoint {
    session: Session,
    channel: DebugChannel,
}

impl Endpoint {
    /// Serves `session` over `channel`.
    pub fn new(session: Session, channel: DebugChannel) -> Self {
        Self { session, channel }
    }

    /// The VM's space.
    pub fn space(&self) -> &'static Space {
        self.session.space()
    }

    /// Whether something can happen without a byte from the client.
    pub fn wants_poll(&self) -> bool {
        self.session.wants_poll()
    }

    /// Serves what has come. `console` knows who came and went.
    pub fn run(&mut self, mut console: Option<&mut Console<MmioRegion>>) {
        // A client's `Opened` comes before its bytes, and its `Closed` after the last of them.
        loop {
            let has_data = self.channel.has_data();
            if let Some(console) = console.as_mut().filter(|_| has_data) {
                // Who came and went before these bytes.
                console.handle_interrupt();
            }
            let event = self.channel.take_event();
            match event {
                Some(ChannelEvent::Opened) => self.session.opened(),
                Some(ChannelEvent::Closed) => self.session.closed(),
                Some(ChannelEvent::Replaced) => self.session.replaced(),
                None => {}
            }
            let mut buffer = [0; 1024];
            let count = if has_data {
                self.channel.read(&mut buffer)
            } else {
                0
            };
            self.session.receive(&buffer[..count]);
            if let Some(console) = console.as_mut() {
                // Whether the client is still there to read the answers.
                console.handle_interrupt();
            }
            self.session.flush(&mut Out(&mut *self.channel));
            if event.is_none() && count == 0 {
                break;
            }
        }
        self.session.poll();
        self.session.flush(&mut Out(&mut *self.channel));
    }
}

/// The way out of any channel.
struct Out<'a>(&'a mut (dyn Channel + Send));

impl ByteChannel for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }
}

/// The endpoint of the hypervisor itself. It stops no CPU yet: it tells a client so.
pub struct HypEndpoint {
    refusal: Unavailable,
    port: ChannelPort,
}

impl HypEndpoint {
    /// Answers over `port`.
    pub fn new(port: ChannelPort) -> Self {
        let refusal = Unavailable::new(
            "the hypervisor itself cannot be debugged yet: connect to a VM (vm1 at 1234, vm2 at 1235)",
        );
        Self { refusal, port }
    }

    /// Serves what has come.
    pub fn run(&mut self) {
        loop {
            let event = self.port.take_event();
            if event.is_some() {
                self.refusal.restart();
            }
            let mut buffer = [0; 256];
            let count = self.port.read(&mut buffer);
            self.refusal.receive(&buffer[..count]);
            self.refusal.flush(&mut self.port);
            if event.is_none() && count == 0 {
                return;
            }
        }
    }
}
