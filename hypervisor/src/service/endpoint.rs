//! The endpoints of the VMs and of tools: a session behind a channel.

use alloc::boxed::Box;
use devices::channel::{Channel, ChannelEvent};
use probes::space::Space;
use stub::{ByteChannel, Session};

/// Anything that carries a debugger: a virtio port, or the physical PL011.
pub type DebugChannel = Box<dyn Channel + Send>;

/// An endpoint.
pub struct Endpoint {
    session: Session,
    channel: DebugChannel,
}

impl Endpoint {
    /// Serves `session` over `channel`.
    pub fn new(session: Session, channel: DebugChannel) -> Self {
        Self { session, channel }
    }

    /// The space of its session: the VM's, or an empty one.
    pub fn space(&self) -> &'static Space {
        self.session.space()
    }

    /// Whether something can happen without a byte from the client.
    pub fn wants_poll(&self) -> bool {
        self.session.wants_poll()
    }

    /// Serves what has come. A function of its own, for breakpoints on it.
    #[inline(never)]
    pub fn run(&mut self) {
        // A client's `Opened` comes before its bytes, and its `Closed` after the last of them.
        loop {
            let has_data = self.channel.has_data();
            if has_data {
                // Who came and went before these bytes.
                super::serve_console();
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
            // Whether the client is still there to read the answers.
            super::serve_console();
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
