//! `update`: other limits for a container that exists. What is not mentioned stays as it is.

use crate::cgroup::{CpuMax, Plan};
use crate::config::Resources;
use crate::container::{Container, Operation};
use crate::error::Result;
use crate::pause::own_cgroup;
use crate::store::{ContainerId, Store};

/// Writes the limits of `resources` into the container's cgroups, all or none; what means nothing there is in the
/// answer, one sentence each.
///
/// Device rules stay as they are, whatever `resources` say: containerd hands on the whole section of the
/// configuration, and to put its rules in force again would take away the devices that a hook has since allowed (GPUs).
///
/// # Errors
/// `WrongStatus` ("container not running") unless it is created, running or paused; `InvalidSpec` and `Unsupported` as
/// at `create`; `Os` for what the kernel refuses. Then every limit is what it was, unless the text says otherwise.
pub fn update(store: &Store, id: &ContainerId, resources: Resources) -> Result<Vec<String>> {
    let container = Container::open_locked(store, id)?;
    container.dir().check_owner()?;
    container.check(Operation::Update)?;
    let mut cgroup = own_cgroup(&container)?;
    let mut resources = Resources { devices: Vec::new(), ..resources };
    if needs_other_half(&resources)
        && let Some(in_force) = cgroup.cpu_max()?
    {
        complete(&mut resources, in_force);
    }
    let plan = Plan::update(&cgroup.record(), &resources)?;
    cgroup.change(&plan)?;
    Ok(plan.warnings)
}

/// Quota and period are one file of v2; either may be given alone.
fn needs_other_half(resources: &Resources) -> bool {
    resources.cpu.as_ref().is_some_and(|cpu| (cpu.quota.unwrap_or(0) != 0) != (cpu.period.unwrap_or(0) != 0))
}

/// Takes the half that was not given from what is in force.
fn complete(resources: &mut Resources, in_force: CpuMax) {
    let Some(cpu) = &mut resources.cpu else { return };
    cpu.quota = cpu.quota.filter(|n| *n != 0).or(Some(in_force.quota));
    cpu.period = cpu.period.filter(|n| *n != 0).or(Some(in_force.period));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cpu;

    #[test]
    fn the_half_that_is_not_given_stays_what_it_is() {
        let in_force = CpuMax { quota: 20_000, period: 50_000 };
        for (quota, period, want) in [
            (Some(30_000), None, Some((30_000, 50_000))),
            (Some(-1), Some(0), Some((-1, 50_000))),
            (None, Some(80_000), Some((20_000, 80_000))),
            (Some(0), Some(80_000), Some((20_000, 80_000))),
            (Some(1_000), Some(2_000), None),
            (None, None, None),
            (Some(0), Some(0), None),
        ] {
            let mut resources =
                Resources { cpu: Some(Cpu { quota, period, ..Cpu::default() }), ..Resources::default() };
            let needs = needs_other_half(&resources);
            assert_eq!(needs, want.is_some(), "{quota:?} {period:?}");
            if needs {
                complete(&mut resources, in_force);
                let cpu = resources.cpu.unwrap();
                assert_eq!((cpu.quota, cpu.period), (want.map(|w| w.0), want.map(|w| w.1)));
            }
        }
        assert!(!needs_other_half(&Resources::default()));
    }
}
