//! What clients ask of memory beside its contents.

use super::Session;
use alloc::format;
use alloc::string::String;
use probes::addr::{Gva, PAGE_SIZE};
use probes::machine::PhysFault;
use probes::translate::{Permissions, translate};

impl Session {
    /// `qMemoryRegionInfo`: the page around an address. LLDB looks for holes in the address space with this, so a page
    /// without memory behind it counts as a hole, mapped or not.
    pub(super) fn tell_region(&mut self, address: Gva) {
        let page = address.page();
        let permissions = self.page_permissions(page).unwrap_or_default();
        self.reply(format!("start:{:x};size:{PAGE_SIZE:x};{permissions}", page.0).as_bytes());
    }

    fn page_permissions(&self, page: Gva) -> Option<String> {
        let regs = self.target.translation(self.target.focus()).ok()?;
        let translation = translate(&regs, self.machine(), page).ok()?;
        let read = self.machine().read_phys(translation.gpa, &mut [0]);
        if let Err(PhysFault::Unmapped(_)) = read {
            return None;
        }
        let Permissions { el1, el0 } = translation.permissions;
        let letter = |allowed: bool, letter| if allowed { letter } else { "" };
        let read = letter(el1.read || el0.read, "r");
        let write = letter(el1.write || el0.write, "w");
        let execute = letter(el1.execute || el0.execute, "x");
        Some(format!("permissions:{read}{write}{execute};"))
    }
}
