//! The table.

use crate::plan::Comparison;

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
pub(crate) fn print(comparison: &Comparison) {
    let Comparison { tasks, rounds, rows, .. } = comparison;
    println!(
        "{tasks} tasks, medians of {rounds} rounds; a ratio is the median of the rounds' ratios [lowest..highest]\n"
    );
    println!("{:<40} {:>10} {:>10} {:<8} {:>6}  against", "", "mq-worker", "reference", "", "ratio");
    for row in rows {
        let (low, high) = row.range;
        println!(
            "{:<40} {:>10.1} {:>10.1} {:<8} {:>6.2}  {} [{low:.2}..{high:.2}]",
            row.what, row.ours, row.reference, row.unit, row.ratio, row.against
        );
    }
}
