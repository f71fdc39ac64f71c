//! Endpoints: what serves a client, and the channel that the client speaks through.

use devices::channel::{Channel, ChannelEvent};

/// An endpoint.
pub struct Wired<S, C> {
    /// What serves the client.
    pub session: S,
    /// The way to the client: a virtio port, or the physical PL011.
    pub channel: C,
}

impl<S: stub::Endpoint, C: Channel> Wired<S, C> {
    /// Serves `session` over `channel`.
    pub fn new(session: S, channel: C) -> Self {
        Self { session, channel }
    }

    /// Takes what has come, and answers.
    pub fn listen(&mut self) {
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
            self.session.flush(&mut self.channel);
            if event.is_none() && count == 0 {
                break;
            }
        }
    }

    /// Looks for what there is to say without being asked.
    pub fn look(&mut self) {
        self.session.poll();
        self.session.flush(&mut self.channel);
    }

    /// Serves what has come. A function of its own, for breakpoints on it.
    #[inline(never)]
    pub fn run(&mut self) {
        self.listen();
        self.look();
    }
}
