//! Searching an image.

use super::ImageReader;
use alloc::string::String;
use alloc::vec;
use core::ops::ControlFlow;

/// Bytes that are looked at at once.
const WINDOW: usize = 64 << 10;

/// Calls `visit` with the offset of every occurrence of `needle` (1 to 255 bytes) until it breaks.
/// Parts that cannot be read are skipped. Boyer–Moore–Horspool: most bytes are never looked at.
pub(super) fn each(
    image: &(impl ImageReader + ?Sized),
    needle: &[u8],
    visit: &mut dyn FnMut(u64) -> ControlFlow<()>,
) {
    let mut skips = [needle.len() as u8; 256];
    for (index, &byte) in needle[..needle.len() - 1].iter().enumerate() {
        skips[usize::from(byte)] = (needle.len() - 1 - index) as u8;
    }
    let mut buffer = vec![0; WINDOW];
    let step = (WINDOW - needle.len() + 1) as u64;
    let mut start = 0;
    while start < image.size() {
        let length = (image.size() - start).min(WINDOW as u64) as usize;
        let window = &mut buffer[..length];
        if image.read(start, window).is_ok()
            && each_in(window, needle, &skips, start, visit).is_break()
        {
            return;
        }
        start += step;
    }
}

fn each_in(
    window: &[u8],
    needle: &[u8],
    skips: &[u8; 256],
    start: u64,
    visit: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut at = 0;
    while let Some(candidate) = window.get(at..at + needle.len()) {
        if candidate == needle {
            visit(start + at as u64)?;
        }
        let last = candidate[needle.len() - 1];
        at += usize::from(skips[usize::from(last)]);
    }
    ControlFlow::Continue(())
}

/// Longest banner; Linux' own are below 300 bytes.
const MAX_BANNER: u64 = 512;

/// `linux_banner` (`init/version-timestamp.c`), without its newline. An image holds other strings
/// that begin like it; only this one has the number of the build, `#1`.
pub(super) fn banner(image: &(impl ImageReader + ?Sized)) -> Option<String> {
    let mut found = None;
    each(image, b"Linux version ", &mut |at| {
        let mut buffer = [0; MAX_BANNER as usize];
        let length = (image.size() - at).min(MAX_BANNER) as usize;
        let Ok(()) = image.read(at, &mut buffer[..length]) else {
            return ControlFlow::Continue(());
        };
        found = banner_text(&buffer[..length]);
        if found.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    found
}

fn banner_text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == b'\n' || byte == 0)?;
    let text = core::str::from_utf8(&bytes[..end]).ok()?;
    let (_, build) = text.split_once(" #")?;
    let is_numbered = build.starts_with(|first: char| first.is_ascii_digit());
    let is_text = !text.contains(char::is_control);
    (is_numbered && is_text).then(|| text.into())
}
