//! The kernel's symbols and those of its modules as one table.

use super::module::Module;
use crate::addr::Gva;
use crate::similar::Suggestions;
use crate::symbols::{Located, Named, Symbol, Symbols};
use crate::target::Target;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A kernel's table, and its modules. A function of a module is `MODULE:FUNCTION`, and answers to
/// `FUNCTION` too.
pub(crate) struct WithModules {
    pub(crate) kernel: Arc<dyn Symbols>,
    pub(crate) modules: Arc<[Arc<Module>]>,
}

impl WithModules {
    /// The functions of modules that answer to `name`.
    fn answering<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (Gva, &'a Module, &'a str)> {
        let (module, function) = match Target::split_module(name) {
            Some((module, function)) => (Some(module), function),
            None => (None, name),
        };
        let modules = self.modules.iter();
        let asked =
            modules.filter(move |candidate| module.is_none_or(|name| candidate.name == name));
        asked.flat_map(move |module| {
            let named = module.named(function);
            named.map(|(address, name)| (address, &**module, name))
        })
    }
}

impl Symbols for WithModules {
    fn count(&self) -> usize {
        let modules = self.modules.iter();
        self.kernel.count()
            + modules
                .map(|module| module.functions().count())
                .sum::<usize>()
    }

    fn by_name(&self, name: &str) -> Option<Gva> {
        let own = self.kernel.by_name(name);
        own.or_else(|| self.answering(name).map(|(address, ..)| address).min())
    }

    fn named(&self, name: &str, limit: usize) -> Vec<Named> {
        let mut named = self.kernel.named(name, limit);
        let modules = self
            .answering(name)
            .map(|(address, module, function)| Named {
                address,
                name: format!("{}:{function}", module.name),
            });
        named.extend(modules);
        named.sort_by_key(|named| named.address);
        named.truncate(limit);
        named
    }

    fn by_address(&self, address: Gva) -> Option<Located> {
        let mut modules = self.modules.iter();
        let found = modules.find_map(|module| Some((module, module.function_at(address)?)));
        match found {
            Some((module, (start, function))) => Some(Located {
                name: format!("{}:{function}", module.name),
                offset: address.0 - start.0,
            }),
            None => self.kernel.by_address(address),
        }
    }

    fn similar(&self, name: &str, limit: usize) -> Vec<String> {
        let Some((module, function)) = Target::split_module(name) else {
            return self.kernel.similar(name, limit);
        };
        let mut suggestions = Suggestions::new(function, limit);
        let modules = self.modules.iter();
        for module in modules.filter(|candidate| candidate.name == module) {
            for (_, candidate) in module.functions() {
                suggestions.offer(candidate);
            }
        }
        let found = suggestions.into_names().into_iter();
        found.map(|name| format!("{module}:{name}")).collect()
    }

    fn each(&self, visit: &mut dyn FnMut(Gva, &str) -> bool) {
        self.each_symbol(&mut |symbol| visit(symbol.address, symbol.name));
    }

    fn each_symbol(&self, visit: &mut dyn FnMut(Symbol<'_>) -> bool) {
        // Modules lie below the kernel or above it.
        let kernel = self.kernel.by_name("_text").unwrap_or(Gva(0));
        let (below, above): (Vec<_>, Vec<_>) = self
            .modules
            .iter()
            .partition(|module| module.range.start < kernel);
        let mut goes_on = true;
        let mut visit = |symbol: Symbol<'_>| {
            goes_on = goes_on && visit(symbol);
            goes_on
        };
        each_of(&below, &mut visit);
        self.kernel.each_symbol(&mut visit);
        each_of(&above, &mut visit);
    }

    fn next_after(&self, address: Gva) -> Option<Gva> {
        let modules = self.modules.iter();
        let next = modules.filter_map(|module| module.next_after(address));
        next.chain(self.kernel.next_after(address)).min()
    }

    fn has_module(&self, name: &str) -> bool {
        self.modules.iter().any(|module| module.name == name)
    }
}

fn each_of(modules: &[&Arc<Module>], visit: &mut dyn FnMut(Symbol<'_>) -> bool) {
    for module in modules {
        for (address, function) in module.functions() {
            let name = &format!("{}:{function}", module.name);
            // Of functions only is anything known.
            let kind = 't';
            if !visit(Symbol {
                address,
                kind,
                name,
            }) {
                return;
            }
        }
    }
}
