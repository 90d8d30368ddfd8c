//! The figures as tables in Markdown: absolute, as ratios, with their spread, and beside the aims.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::relay::What;

/// More of a core than this used by processes that have nothing to do with it disturbs a measurement.
pub(crate) const DISTURBED: f64 = 0.1;
/// More lost packets than this for each sent are said.
pub(crate) const LOSSY: f64 = 0.001;

/// What one measurement gave.
pub(crate) struct Section {
    pub(crate) title: String,
    /// What exactly the figures are.
    pub(crate) notes: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// One figure for each relay.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Digits behind the point.
    pub(crate) digits: usize,
    pub(crate) aim: Option<Aim>,
    /// Whether what it costs more than the floor is of interest.
    pub(crate) over_floor: bool,
    samples: BTreeMap<What, Vec<Sample>>,
}

/// What was measured once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    /// How many cores others used meanwhile.
    pub(crate) foreign: f64,
    /// Lost packets for each that was sent.
    pub(crate) loss: f64,
    /// The load generator could do no more: the relay might.
    pub(crate) limited: bool,
}

/// What Nocturne's figure has to be, divided by coturn's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, digits: usize) -> Self {
        Self {
            name: name.into(),
            unit,
            digits,
            aim: None,
            over_floor: false,
            samples: BTreeMap::new(),
        }
    }

    pub(crate) const fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    pub(crate) const fn over_floor(mut self) -> Self {
        self.over_floor = true;
        self
    }

    pub(crate) fn add(&mut self, what: What, sample: Sample) {
        self.samples.entry(what).or_default().push(sample);
    }

    /// The median of a relay's samples.
    pub(crate) fn median(&self, what: What) -> Option<f64> {
        let samples = self.samples.get(&what)?;
        median(samples.iter().map(|sample| sample.value))
    }

    /// Nocturne's median divided by coturn's.
    fn ratio(&self) -> Option<f64> {
        Some(self.median(What::Nocturne)? / self.median(What::Coturn)?)
    }

    /// The lowest and the highest ratio of any round.
    fn ratios(&self) -> Option<(f64, f64)> {
        let nocturne = self.samples.get(&What::Nocturne)?.iter();
        let coturn = self.samples.get(&What::Coturn)?.iter();
        extremes(
            nocturne
                .zip(coturn)
                .map(|(ours, theirs)| ours.value / theirs.value),
        )
    }

    fn is_disturbed(&self) -> bool {
        let mut samples = self.samples.values();
        samples.any(|samples| {
            median(samples.iter().map(|sample| sample.foreign))
                .is_some_and(|foreign| foreign > DISTURBED)
        })
    }

    fn cell(&self, what: What) -> String {
        let Some(samples) = self.samples.get(&what) else {
            return String::new();
        };
        let (Some(median), Some((low, high))) = (
            self.median(what),
            extremes(samples.iter().map(|sample| sample.value)),
        ) else {
            return String::new();
        };
        let digits = self.digits;
        let mut text = format!("{median:.digits$}");
        if samples.len() > 1 {
            let _ = write!(text, " ({low:.digits$}–{high:.digits$})");
        }
        let loss = crate::report::median(samples.iter().map(|sample| sample.loss));
        if let Some(loss) = loss.filter(|loss| *loss > LOSSY) {
            let _ = write!(text, " †{:.1} %", loss * 100.0);
        }
        if samples.iter().any(|sample| sample.limited) {
            text.push_str(" ‡");
        }
        text
    }

    fn floor_cell(&self) -> String {
        let mut text = self.cell(What::Floor);
        if let (true, Some(floor)) = (self.over_floor, self.median(What::Floor)) {
            for what in What::RELAYS {
                if let Some(median) = self.median(what) {
                    let digits = self.digits;
                    let _ = write!(text, ", {} {:+.digits$}", what.name(), median - floor);
                }
            }
        }
        text
    }

    fn ratio_cell(&self) -> String {
        match (self.ratio(), self.ratios()) {
            (Some(ratio), Some((low, high))) => format!("{ratio:.2} ({low:.2}–{high:.2})"),
            _ => String::new(),
        }
    }

    fn aim_cell(&self) -> String {
        match (self.aim, self.ratio()) {
            (Some(aim), Some(ratio)) => format!("{}: {}", aim.describe(), aim.verdict(ratio)),
            (Some(aim), None) => aim.describe(),
            (None, _) => String::new(),
        }
    }
}

impl Aim {
    fn describe(self) -> String {
        match self {
            Self::AtMost(ratio) => format!("≤ {ratio:.2}"),
            Self::AtLeast(ratio) => format!("≥ {ratio:.2}"),
        }
    }

    fn verdict(self, ratio: f64) -> &'static str {
        let met = match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        };
        if met { "met" } else { "**missed**" }
    }
}

/// A section as Markdown.
pub(crate) fn section(section: &Section) -> String {
    let mut text = format!("## {}\n\n", section.title);
    for note in &section.notes {
        let _ = writeln!(text, "{note}\n");
    }
    text.push_str(
        "| | unit | coturn | nocturne | bare loop | nocturne ÷ coturn | aim |\n|---|---|---|---|---|---|---|\n",
    );
    for row in &section.rows {
        let _ = writeln!(
            text,
            "| {}{} | {} | {} | {} | {} | {} | {} |",
            row.name,
            if row.is_disturbed() { " \\*" } else { "" },
            row.unit,
            row.cell(What::Coturn),
            row.cell(What::Nocturne),
            row.floor_cell(),
            row.ratio_cell(),
            row.aim_cell(),
        );
    }
    text
}

/// What the marks in the tables mean.
pub(crate) fn legend() -> String {
    format!(
        "Medians of the rounds, and the lowest and highest of them in parentheses; a ratio's parentheses are the ratios of \
         the single rounds.\n\\*: disturbed: half of the rounds or more saw others use more than {DISTURBED} cores. †: so \
         many of the packets were lost, where it is more than {:.1} %. ‡: the load generator was the limit.\n",
        LOSSY * 100.0
    )
}

/// How many aims were met, and which were not.
pub(crate) fn verdict(sections: &[Section]) -> String {
    let rows = sections.iter().flat_map(|section| &section.rows);
    let judged: Vec<_> = rows
        .filter_map(|row| Some((row, row.aim?, row.ratio()?)))
        .collect();
    if judged.is_empty() {
        return "No aim was judged: that takes coturn and Nocturne in one run.\n".to_owned();
    }
    let missed: Vec<_> = judged
        .iter()
        .filter(|(_, aim, ratio)| aim.verdict(*ratio) != "met")
        .collect();
    let mut text = format!(
        "{} of {} aims are met.\n",
        judged.len() - missed.len(),
        judged.len()
    );
    for (row, aim, ratio) in missed {
        let _ = writeln!(
            text,
            "- missed: {}, {}: {ratio:.2}, aim {}",
            row.name,
            row.unit,
            aim.describe()
        );
    }
    text
}

/// The one in the middle, or between the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let high = *values.get(half)?;
    if !values.len().is_multiple_of(2) {
        return Some(high);
    }
    Some(f64::midpoint(*values.get(half - 1)?, high))
}

fn extremes(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |found, value| {
        let (low, high) = found.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(coturn: &[f64], nocturne: &[f64]) -> Row {
        let mut row = Row::new("client → peer", "µs", 1).aim(Aim::AtMost(0.8));
        let sample = |value: &f64| Sample {
            value: *value,
            ..Sample::default()
        };
        for value in coturn {
            row.add(What::Coturn, sample(value));
        }
        for value in nocturne {
            row.add(What::Nocturne, sample(value));
        }
        row
    }

    #[test]
    fn a_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median([4.0, 1.0, 3.0].into_iter()), Some(3.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_ratio_is_of_medians_and_its_spread_of_rounds() {
        let row = row(&[10.0, 11.0, 10.0], &[7.0, 11.0, 6.0]);
        assert_eq!(row.ratio(), Some(0.7));
        assert_eq!(row.ratios(), Some((0.6, 1.0)));
        assert_eq!(row.ratio_cell(), "0.70 (0.60–1.00)");
        assert_eq!(row.aim_cell(), "≤ 0.80: met");
    }

    #[test]
    fn aims_are_missed_on_the_wrong_side_alone() {
        assert_eq!(Aim::AtMost(0.8).verdict(0.8), "met");
        assert_eq!(Aim::AtMost(0.8).verdict(0.81), "**missed**");
        assert_eq!(Aim::AtLeast(2.0).verdict(2.0), "met");
        assert_eq!(Aim::AtLeast(2.0).verdict(1.9), "**missed**");
    }

    #[test]
    fn without_the_other_relay_nothing_is_judged() {
        let section = Section {
            title: "CPU".to_owned(),
            notes: Vec::new(),
            rows: vec![row(&[10.0], &[])],
        };
        assert!(verdict(&[section]).starts_with("No aim was judged"));
    }

    #[test]
    fn marks_say_what_was_wrong_with_a_row() {
        let mut row = row(&[10.0], &[]);
        assert!(!row.is_disturbed());
        row.add(
            What::Floor,
            Sample {
                value: 1.0,
                foreign: 0.5,
                loss: 0.01,
                limited: true,
            },
        );
        assert!(row.is_disturbed());
        assert_eq!(row.cell(What::Floor), "1.0 †1.0 % ‡");
    }
}
