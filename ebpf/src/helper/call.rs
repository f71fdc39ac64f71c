//! What the helpers do.

use super::printf::agent_printf;
use super::queue::Take;
use super::read::{Half, probe_read, probe_read_str};
use super::{
    E2BIG, EAGAIN, EINVAL, Helper, arguments, backtrace, expression, place, print, queue, random,
    records, task,
};
use crate::address::{self, Place};
use crate::map::{MAX_KEY_SIZE, Map, MapError, MapKind, UpdateFlag, Values};
use crate::object::{Access, RunFault};
use crate::run::Run;

/// Calls a helper with r1 to r5 and returns its r0.
pub(crate) fn call(run: &mut Run<'_>, helper: Helper, args: [u64; 5]) -> Result<u64, RunFault> {
    let [first, second, third, fourth, fifth] = args;
    match helper {
        Helper::MapLookupElem => map_lookup(run, first, second, run.cpu),
        Helper::MapLookupPercpuElem => map_lookup_percpu(run, first, second, third as u32),
        Helper::MapUpdateElem => map_update(run, first, second, third, fourth),
        Helper::MapDeleteElem => map_delete(run, first, second),
        Helper::MapPushElem => queue::push(run, first, second, third),
        Helper::MapPopElem => queue::take(run, Take::Pop, first, second),
        Helper::MapPeekElem => queue::take(run, Take::Peek, first, second),
        Helper::PerfEventOutput => records::perf_event_output(run, args),
        Helper::RingbufOutput => records::ringbuf_output(run, args),
        Helper::RingbufReserve => records::ringbuf_reserve(run, args),
        Helper::RingbufSubmit => records::ringbuf_submit(run, first),
        Helper::RingbufDiscard => records::ringbuf_discard(run, first),
        Helper::RingbufQuery => records::ringbuf_query(run, first, second),
        Helper::GetStackid => backtrace::get_stackid(run, second, third),
        Helper::GetStack => backtrace::get_stack(run, second, third, fourth),
        Helper::CurrentTaskUnderCgroup => under_cgroup(run, first, second as u32),
        Helper::ProbeRead | Helper::ProbeReadKernel => {
            probe_read(run, Half::Any, [first, second, third])
        }
        Helper::ProbeReadUser => probe_read(run, Half::User, [first, second, third]),
        Helper::ProbeReadStr | Helper::ProbeReadKernelStr => {
            probe_read_str(run, Half::Any, [first, second, third])
        }
        Helper::ProbeReadUserStr => probe_read_str(run, Half::User, [first, second, third]),
        Helper::KtimeGetNs | Helper::KtimeGetBootNs => Ok(run.host.ktime_ns()),
        Helper::DurationNs => Ok(run.host.duration_ns().unwrap_or(0)),
        Helper::GetVmId => Ok(run.host.vm().into()),
        Helper::GetVcpuId => Ok(run.host.vcpu().into()),
        Helper::GetExitReason => Ok(run.host.exit_syndrome()),
        Helper::GetTracepointName => place::tracepoint_name(run, first, second),
        Helper::GetSmpProcessorId => Ok(run.cpu as u64),
        Helper::GetPrandomU32 => Ok(random::number(run).into()),
        Helper::TracePrintk => print::printk(run, [first, second], &args[2..]),
        Helper::TraceVprintk => print::vprintk(run, [first, second], [third, fourth]),
        Helper::Snprintf => print::snprintf(run, [first, second], third, [fourth, fifth]),
        Helper::Strncmp => strncmp(run, [first, second], third),
        Helper::GetCurrentPidTgid => Ok(task::pid_tgid(run.host)),
        Helper::GetCurrentUidGid => Ok(task::uid_gid(run.host)),
        Helper::GetCurrentComm => task::comm(run, first, second),
        Helper::GetCurrentTask | Helper::GetCurrentTaskBtf => Ok(run.host.current().unwrap_or(0)),
        Helper::GetCurrentCgroupId => Ok(task::cgroup_id(run.host)),
        Helper::GetFuncIp => Ok(run.host.function().unwrap_or(0)),
        // Who runs the program does that, because it is what calls functions and ends programs.
        Helper::Loop | Helper::ForEachMapElem | Helper::TailCall => Err(RunFault::Corrupt),
        Helper::GetAttachCookie => Ok(run.host.cookie()),
        Helper::AgentRead => expression::read(run, args),
        Helper::AgentFail => Err(expression::fail(first)),
        Helper::AgentPrintf => agent_printf(run, args),
        Helper::AgentRegister => expression::register(run, first, second),
        Helper::AgentVariable => expression::variable(run, first, second),
        Helper::AgentSetVariable => expression::set_variable(run, args),
        Helper::AgentCollect => expression::collect(run, args),
        Helper::AgentCollectString => expression::collect_string(run, args),
        Helper::AgentCollectVariable => expression::collect_variable(run, first, second),
        Helper::GetFuncArg => arguments::argument(run, second, third),
        Helper::GetFuncRet => arguments::result(run, second),
        Helper::GetFuncArgCnt => Ok(arguments::count(run)),
    }
}

pub(super) fn bad_access(address: u64, length: usize, access: Access) -> RunFault {
    RunFault::BadAccess {
        address,
        length: length as u32,
        access,
    }
}

pub(super) fn read(run: &Run<'_>, address: u64, target: &mut [u8]) -> Result<(), RunFault> {
    let length = target.len();
    run.memory
        .read(address, target)
        .map_err(|_| bad_access(address, length, Access::Read))
}

/// The map that a program passes to a helper.
pub(super) fn map_of<'a>(run: &Run<'a>, handle: u64) -> Result<&'a Map, RunFault> {
    let map = match Place::parse(handle) {
        Some(Place::Handle(index)) => run.memory.maps.get(index),
        _ => None,
    };
    map.ok_or(RunFault::NotAMap { value: handle })
}

/// A key, copied out of the program's memory.
struct Key {
    bytes: [u8; MAX_KEY_SIZE as usize],
    length: usize,
}

impl Key {
    fn read(run: &Run<'_>, map: &Map, address: u64) -> Result<Self, RunFault> {
        let length = map.definition().key_size as usize;
        let mut key = Self {
            bytes: [0; MAX_KEY_SIZE as usize],
            length,
        };
        read(run, address, &mut key.bytes[..length])?;
        Ok(key)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What a program gets for what a map has done.
pub(super) fn result(result: Result<(), MapError>) -> u64 {
    result.map_or_else(MapError::errno, |()| 0)
}

fn map_lookup(run: &mut Run<'_>, handle: u64, key: u64, cpu: usize) -> Result<u64, RunFault> {
    let map = map_of(run, handle)?;
    let key = Key::read(run, map, key)?;
    Ok(map.place(key.as_bytes(), cpu).map_or(0, address::arena))
}

fn map_lookup_percpu(run: &mut Run<'_>, handle: u64, key: u64, cpu: u32) -> Result<u64, RunFault> {
    let kind = map_of(run, handle)?.definition().kind;
    if kind.is_per_cpu() {
        map_lookup(run, handle, key, cpu as usize)
    } else {
        Ok(0)
    }
}

/// As Linux answers where the array has no group at that index.
fn under_cgroup(run: &mut Run<'_>, handle: u64, index: u32) -> Result<u64, RunFault> {
    let definition = map_of(run, handle)?.definition();
    Ok(match definition.kind {
        MapKind::CgroupArray if index >= definition.max_entries => E2BIG,
        MapKind::CgroupArray => EAGAIN,
        _ => EINVAL,
    })
}

fn map_update(
    run: &mut Run<'_>,
    handle: u64,
    key: u64,
    value: u64,
    flags: u64,
) -> Result<u64, RunFault> {
    let map = map_of(run, handle)?;
    let key = Key::read(run, map, key)?;
    let size = map.values().size();
    run.charge(size as u64 / 8)?;
    run.memory
        .check_read(value, size)
        .map_err(|_| bad_access(value, size, Access::Read))?;
    let Some(flag) = UpdateFlag::from_number(flags) else {
        return Ok(EINVAL);
    };
    let words = run.memory.words(value, size);
    let update = |values: &Values, place| values.fill_words(place, size, &words);
    Ok(result(map.update_with(
        key.as_bytes(),
        run.cpu,
        flag,
        update,
    )))
}

fn map_delete(run: &mut Run<'_>, handle: u64, key: u64) -> Result<u64, RunFault> {
    let map = map_of(run, handle)?;
    let key = Key::read(run, map, key)?;
    Ok(result(map.delete(key.as_bytes())))
}

/// `int strncmp(text, size, string)`: which one comes first, compared up to a NUL or `size` bytes.
fn strncmp(run: &mut Run<'_>, [text, size]: [u64; 2], string: u64) -> Result<u64, RunFault> {
    for index in 0..u64::from(size as u32) {
        run.charge(1)?;
        let [mut ours, mut theirs] = [[0], [0]];
        read(run, text.wrapping_add(index), &mut ours)?;
        read(run, string.wrapping_add(index), &mut theirs)?;
        let difference = i64::from(ours[0]) - i64::from(theirs[0]);
        if difference != 0 || ours[0] == 0 {
            return Ok(difference as u64);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
