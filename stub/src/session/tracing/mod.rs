//! GDB tracepoints (GDB manual, E.6 "Tracepoint Packets"): what a client asks of the trace experiment of its space.
//!
//! While a trace frame is selected (`QTFrame`), registers and memory are the frame's ([`frame`]).

mod file;
mod frame;
mod markers;
mod status;
mod upload;

use file::Reader;
pub(super) use frame::FrameMemory;
use upload::Listing;

use super::Session;
use crate::packet::request::tracing::Note;
use crate::packet::request::{Errno, Tracing};
use crate::target::{Expressions, Role, TraceFrame};
use alloc::string::ToString;
use alloc::vec::Vec;
use probes::gdb_trace::BadTrace;

/// What a session knows of its client's look at an experiment.
#[derive(Default)]
pub(super) struct Tracer {
    /// The frame that is selected.
    frame: Option<TraceFrame>,
    listing: Listing,
    file: Reader,
}

impl Tracer {
    /// The frames may be others now.
    fn reset(&mut self) {
        *self = Self::default();
    }
}

impl Session {
    /// Answers a packet about tracing.
    pub(super) fn trace_experiment(&mut self, request: Tracing) {
        if self.target.role() == Role::Tool {
            // It is not offered any.
            return self.reply(b"");
        }
        let space = self.space;
        let expressions = Expressions::new(self.server, space);
        let done = match request {
            Tracing::Init => {
                self.tracer.reset();
                space.init_experiment(self.target.owner());
                self.server.end_marking(space);
                Ok(())
            }
            Tracing::Define(definition, more) => self
                .check_marker(&definition)
                .and_then(|()| space.define_tracepoint(definition, more, &expressions)),
            Tracing::Actions {
                id,
                moment,
                text,
                actions,
                more,
            } => space.add_actions(id, moment, (text, actions), more, &expressions),
            Tracing::Source(id, text) => space.experiment().add_source(id, text),
            Tracing::Variable(definition) => space.define_variable(definition),
            Tracing::ReadOnly(regions) => space.experiment().set_readonly(regions),
            Tracing::Start => {
                self.tracer.reset();
                let started = space.start_experiment(&expressions);
                if started.is_ok() {
                    self.server.begin_marking(space);
                }
                started
            }
            Tracing::Stop => {
                // What has happened before belongs to it.
                self.target.collect_events();
                space.stop_experiment();
                self.server.end_marking(space);
                Ok(())
            }
            Tracing::Switch(id, switch) => space.switch_tracepoint(id, switch),
            Tracing::Shape(shape) => {
                space.experiment().set_shape(shape);
                Ok(())
            }
            Tracing::Size(size) => space.experiment().set_size(size),
            Tracing::Disconnected(leaving) => {
                space.experiment().set_leaving(leaving);
                Ok(())
            }
            Tracing::Notes(notes) => {
                self.take_notes(notes);
                Ok(())
            }
            Tracing::Refused(reason) => return self.explain_refusal(Errno::Inval, reason),
            question => return self.tell_of_experiment(question),
        };
        self.confirm(done);
    }

    /// The client has gone: so does its experiment, unless it is to stay.
    pub(super) fn leave_experiment(&mut self) {
        self.tracer.reset();
        self.space.leave_experiment(self.target.owner());
        if !self.space.experiment().is_running() {
            self.server.end_marking(self.space);
        }
    }

    /// Answers a question about an experiment.
    fn tell_of_experiment(&mut self, question: Tracing) {
        match question {
            Tracing::Status => self.tell_run_status(),
            Tracing::Point(id) => self.tell_point_status(id),
            Tracing::Value(number) => self.tell_variable(number),
            Tracing::Frame(search) => self.select_frame(search.as_ref()),
            Tracing::Buffer(offset, length) => self.read_trace_file(offset, length),
            Tracing::First(listed) => self.list_first(listed),
            Tracing::Next(_) => self.list_next(),
            Tracing::FrameInfo(window) => self.tell_frame_info(window),
            Tracing::StaticData(window) => self.tell_static_data(window),
            Tracing::MarkerAt(address) => self.tell_marker_at(address),
            _ => self.reply(b""),
        }
    }

    fn confirm(&mut self, done: Result<(), BadTrace>) {
        match done {
            Ok(()) => self.reply(b"OK"),
            Err(refused) => self.explain_refusal(Errno::Inval, &refused.to_string()),
        }
    }

    fn take_notes(&mut self, said: Vec<Note>) {
        let mut experiment = self.space.experiment();
        for note in said {
            experiment.note(|notes| match note {
                Note::User(text) => notes.user = text,
                Note::Notes(text) => notes.notes = text,
                Note::Stop(text) => notes.stop = text,
            });
        }
    }
}
