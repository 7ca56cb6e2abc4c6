//! Commands and errors.

use super::{
    super::info::Facts,
    page::{Kind::Counter, Page, seconds},
};

pub(super) fn write(facts: &Facts<'_>, page: &mut Page) {
    let commands: Vec<_> = facts.totals.commands(facts.table).collect();
    page.family(
        Counter,
        "ringkeep_command_calls_total",
        "Runs of a command, those in transactions included.",
    );
    for (name, sum) in &commands {
        page.put(&[("command", name)], sum.calls);
    }
    page.family(
        Counter,
        "ringkeep_command_seconds_total",
        "Time that its runs took, as far as those that were timed tell.",
    );
    for (name, sum) in &commands {
        let nanos = sum.micros().saturating_mul(1000);
        page.put(&[("command", name)], seconds(nanos));
    }
    page.family(
        Counter,
        "ringkeep_command_failed_total",
        "Runs of it that answered an error.",
    );
    for (name, sum) in &commands {
        page.put(&[("command", name)], sum.failed);
    }
    page.family(
        Counter,
        "ringkeep_command_rejected_total",
        "Requests for it that were refused before it ran.",
    );
    for (name, sum) in &commands {
        page.put(&[("command", name)], sum.rejected);
    }
    page.family(
        Counter,
        "ringkeep_error_replies_total",
        "Errors that were answered, by their first word.",
    );
    for (error, count) in facts.totals.errors() {
        page.put(&[("error", error)], count);
    }
}
