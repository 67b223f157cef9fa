//! How many tests passed, failed and were skipped, read from what the test programs print.

use std::{fmt, ops::AddAssign};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
    /// Of those that passed: they had failed before.
    pub unsteady: u32,
}

impl Tally {
    /// All of cargo's closing lines in its output: `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
    pub fn of_cargo_test(output: &str) -> Self {
        let mut sum = Self::default();
        for line in output.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
            let counts = line.split_once(". ").map_or("", |(_, counts)| counts);
            sum += Self::counted(counts, ';', "ignored").unwrap_or_default();
        }
        sum
    }

    /// The kernel tests' closing line, `kernel: N passed, N failed, N skipped[, N unsteady]`. None if they never came to it.
    pub fn of_kernel_tests(output: &str) -> Option<Self> {
        let line = output.lines().rev().find_map(|line| line.trim().strip_prefix("kernel: "))?;
        Self::counted(line, ',', "skipped")
    }

    fn counted(text: &str, separator: char, skipped: &str) -> Option<Self> {
        let count = |word: &str| {
            let (number, _) =
                text.split(separator).filter_map(|part| part.trim().split_once(' ')).find(|(_, w)| *w == word)?;
            number.parse().ok()
        };
        let unsteady = count("unsteady").unwrap_or_default();
        Some(Self { passed: count("passed")?, failed: count("failed")?, skipped: count(skipped)?, unsteady })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.unsteady += other.unsteady;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        if self.unsteady > 0 { write!(f, ", {} unsteady", self.unsteady) } else { Ok(()) }
    }
}

/// What the kernel tests say at their end of those that failed, and of the unsteady ones.
pub fn last_words(output: &str) -> Vec<String> {
    let is_closing = |line: &&str| line.trim_start().starts_with("kernel: ");
    let mut lines: Vec<&str> = output.lines().skip_while(|line| !is_closing(line)).collect();
    lines.truncate(lines.iter().rposition(is_closing).unwrap_or_default());
    lines.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_closing_lines_add_up() {
        let output = "running 2 tests\ntest a ... ok\n\n\
            test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            \ntest says test result: nothing ... ok\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.20s\n";
        assert_eq!(Tally::of_cargo_test(output), Tally { passed: 12, failed: 2, skipped: 1, unsteady: 0 });
        assert_eq!(Tally::of_cargo_test("error: could not compile"), Tally::default());
    }

    #[test]
    fn the_kernel_tests_last_word_counts() {
        let output = "ok    oom::one\nkernel: 1 passed, 0 failed, 0 skipped\nkernel: 12 passed, 1 failed, 3 skipped\n";
        assert_eq!(Tally::of_kernel_tests(output), Some(Tally { passed: 12, failed: 1, skipped: 3, unsteady: 0 }));
    }

    #[test]
    fn tests_that_died_have_no_last_word() {
        for output in
            ["", "ok    oom::one\n", "kernel: panicked", "kernel: 1 passed", "kernel: x passed, 0 failed, 0 skipped"]
        {
            assert_eq!(Tally::of_kernel_tests(output), None, "{output}");
        }
    }

    #[test]
    fn the_sum_reads_as_it_is_parsed() {
        for unsteady in [0, 1] {
            let tally = Tally { passed: 7, failed: 0, skipped: 2, unsteady };
            assert_eq!(Tally::of_kernel_tests(&format!("kernel: {tally}")), Some(tally));
        }
    }

    #[test]
    fn what_failed_is_said_again() {
        let output = "test a ... ok\ntest b ... FAILED\n    why\nkernel: b FAILED\n    why\nkernel: c is unsteady\n    so\n\
            kernel: 1 passed, 1 failed, 0 skipped, 1 unsteady\n[   9.1] reboot: Power down\n";
        assert_eq!(last_words(output), ["kernel: b FAILED", "    why", "kernel: c is unsteady", "    so"]);
        for output in ["", "test a ... ok\nkernel: 1 passed, 0 failed, 0 skipped\n", "test a ... FAILED\n    died"] {
            assert_eq!(last_words(output), [""; 0], "{output}");
        }
    }
}
