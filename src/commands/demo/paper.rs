//! Text for a terminal: two columns, marks, colours where they are wanted.

use std::io::{self, IsTerminal as _};

use shared::environment::Environment;

/// As wide as the demo is where nobody says otherwise.
const USUAL_WIDTH: usize = 100;
/// Wider lines do not read better.
const WIDEST: usize = 120;
/// In less, what belongs side by side goes one below the other.
const NARROWEST_FOR_TWO_COLUMNS: usize = 80;
const NARROWEST: usize = 40;
const BETWEEN_COLUMNS: &str = " │ ";

/// Where the demo is written to: how wide it is and whether it has colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paper {
    width: usize,
    colours: Colours,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    None,
    Ansi,
}

/// What a piece of text is, and so how it looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// as any text
    #[default]
    Plain,
    /// less important
    Faint,
    /// a heading
    Heading,
    /// it is as it should be
    Good,
    /// identifies somebody, and got through
    Leaked,
    /// identifies somebody, and did not get through
    Stopped,
    /// got through, but only the device can read it
    Sealed,
    /// identifies somebody, and cannot be hidden
    Unavoidable,
}

/// A line, in pieces; it may be longer than the paper is wide.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(Vec<(char, Style)>);

impl Paper {
    /// Standard output.
    pub(super) fn of_stdout(environment: &Environment) -> Self {
        let terminal = io::stdout().is_terminal();
        let dumb = environment.get("TERM") == Some("dumb");
        let plain = !terminal || dumb || environment.get("NO_COLOR").is_some();
        let measured = terminal_size::terminal_size().filter(|_| terminal);
        let width = measured
            .map(|(width, _)| usize::from(width.0))
            .or_else(|| environment.get("COLUMNS")?.parse().ok())
            .unwrap_or(USUAL_WIDTH);
        Self {
            width: width.clamp(NARROWEST, WIDEST),
            colours: if plain { Colours::None } else { Colours::Ansi },
        }
    }

    /// Paper of this width without colours.
    #[cfg(test)]
    pub(super) fn plain(width: usize) -> Self {
        Self {
            width,
            colours: Colours::None,
        }
    }

    /// How many characters fit on a line.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// How many characters fit into the left and the right column.
    pub(super) fn column_widths(&self) -> (usize, usize) {
        if self.width < NARROWEST_FOR_TWO_COLUMNS {
            return (self.width, self.width);
        }
        let left = self.width * 45 / 100;
        (left, self.width - left - BETWEEN_COLUMNS.chars().count())
    }

    /// An empty line, and a heading with a rule up to the edge.
    pub(super) fn rule(&self, heading: &str) -> String {
        let used = heading.chars().count() + 4;
        let rest = "─".repeat(self.width.saturating_sub(used));
        let line = Line::default()
            .with("── ", Style::Faint)
            .with(heading, Style::Heading)
            .with(" ", Style::Plain)
            .with(&rest, Style::Faint);
        format!("\n{}\n", self.render(&line))
    }

    /// Prose, broken between words; it begins with a mark and hangs below it.
    pub(super) fn paragraph(&self, mark: &str, style: Style, prose: &str) -> String {
        let indent = mark.chars().count();
        let mut lines = vec![Line::default().with(mark, style)];
        let mut at = indent;
        let mut first = true;
        for word in prose.split_whitespace() {
            let length = word.chars().count();
            if !first && at + 1 + length > self.width {
                lines.push(Line::default().with(&" ".repeat(indent), Style::Plain));
                at = indent;
                first = true;
            }
            if let Some(line) = lines.last_mut() {
                let space = if first { "" } else { " " };
                line.push(space, Style::Plain);
                line.push(word, Style::Plain);
                at += space.len() + length;
            }
            first = false;
        }
        self.lines(&lines)
    }

    /// Short pieces one after the other, as many on a line as fit.
    pub(super) fn flow(&self, pieces: &[Line]) -> String {
        const BETWEEN: &str = "   ";

        let mut lines: Vec<Line> = Vec::new();
        for piece in pieces {
            let wanted = BETWEEN.len() + piece.0.len();
            match lines.last_mut() {
                Some(line) if line.0.len() + wanted <= self.width => {
                    line.push(BETWEEN, Style::Plain);
                    line.0.extend(&piece.0);
                }
                Some(_) | None => lines.push(piece.clone()),
            }
        }
        self.lines(&lines)
    }

    /// One line, broken wherever the paper ends.
    pub(super) fn wrapped(&self, line: &Line) -> String {
        self.lines(&line.broken(self.width))
    }

    /// Two columns, or one below the other where the paper is narrow.
    pub(super) fn columns(&self, left: &[Line], right: &[Line]) -> String {
        let (left_width, right_width) = self.column_widths();
        let broken = |lines: &[Line], width| -> Vec<Line> {
            lines.iter().flat_map(|line| line.broken(width)).collect()
        };
        let (left, right) = (broken(left, left_width), broken(right, right_width));
        if self.width < NARROWEST_FOR_TWO_COLUMNS {
            return self.lines(&left) + "\n" + &self.lines(&right);
        }
        let nothing = Line::default();
        let rows = (0..left.len().max(right.len())).map(|row| {
            let mut line = left.get(row).unwrap_or(&nothing).clone();
            line.pad(left_width);
            line.push(BETWEEN_COLUMNS, Style::Faint);
            line.0.extend(&right.get(row).unwrap_or(&nothing).0);
            line
        });
        self.lines(&rows.collect::<Vec<_>>())
    }

    /// Lines as they are.
    pub(super) fn lines(&self, lines: &[Line]) -> String {
        lines.iter().map(|line| self.render(line) + "\n").collect()
    }

    fn render(&self, line: &Line) -> String {
        let end = line
            .0
            .iter()
            .rposition(|(character, _)| *character != ' ')
            .map_or(0, |last| last + 1);
        let mut text = String::new();
        for run in line.0[..end].chunk_by(|(_, one), (_, other)| one == other) {
            let characters = run.iter().map(|(character, _)| *character);
            let code = run.first().and_then(|(_, style)| style.code());
            match code.filter(|_| self.colours == Colours::Ansi) {
                Some(code) => {
                    text += "\x1b[";
                    text += code;
                    text.push('m');
                    text.extend(characters);
                    text += "\x1b[0m";
                }
                None => text.extend(characters),
            }
        }
        text
    }
}

impl Style {
    /// What selects it on a terminal (ECMA-48, "select graphic rendition").
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Faint => Some("2"),
            Self::Heading => Some("1"),
            Self::Good => Some("32"),
            Self::Leaked => Some("1;31"),
            Self::Stopped => Some("9;32"),
            Self::Sealed => Some("36"),
            Self::Unavoidable => Some("33"),
        }
    }
}

impl Line {
    /// The line, and this after it.
    pub(super) fn with(mut self, text: &str, style: Style) -> Self {
        self.push(text, style);
        self
    }

    /// Adds a piece at the end.
    pub(super) fn push(&mut self, text: &str, style: Style) {
        // what a terminal would act on is shown, not sent
        let shown = text.chars().map(|character| {
            if character.is_control() {
                '·'
            } else {
                character
            }
        });
        self.0.extend(shown.map(|character| (character, style)));
    }

    /// Adds spaces up to a width.
    pub(super) fn pad(&mut self, width: usize) {
        let missing = width.saturating_sub(self.0.len());
        self.0
            .extend(std::iter::repeat_n((' ', Style::Plain), missing));
    }

    /// The line, cut to a width, with a sign that something is missing.
    pub(super) fn cut(mut self, width: usize) -> Self {
        if self.0.len() > width {
            self.0.truncate(width.saturating_sub(1));
            let style = self.0.last().map_or(Style::Plain, |(_, style)| *style);
            self.0.push(('…', style));
        }
        self
    }

    /// Pieces that fit a width: after a comma or a space if there is one near the end, else anywhere.
    fn broken(&self, width: usize) -> Vec<Self> {
        let width = width.max(1);
        let mut lines = Vec::new();
        let mut rest = self.0.as_slice();
        while rest.len() > width {
            let break_after = |(character, _): &(char, Style)| matches!(character, ' ' | ',');
            let near_the_end = width * 2 / 3..width;
            let at = rest[near_the_end.clone()]
                .iter()
                .rposition(break_after)
                .map_or(width, |index| near_the_end.start + index + 1);
            let (line, after) = rest.split_at(at);
            lines.push(Self(line.to_vec()));
            rest = after;
        }
        lines.push(Self(rest.to_vec()));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line::default().with(text, Style::Leaked)
    }

    #[test]
    fn columns_stand_side_by_side_where_there_is_room() {
        let text = Paper::plain(100).columns(&[line("left"), line("more")], &[line("right")]);
        let expected = format!("left{} │ right\nmore{} │\n", " ".repeat(41), " ".repeat(41));
        assert_eq!(text, expected);
        let text = Paper::plain(60).columns(&[line("left")], &[line("right")]);
        assert_eq!(text, "left\n\nright\n");
    }

    #[test]
    fn no_line_is_wider_than_the_paper() {
        for width in [40, 79, 80, 100] {
            let paper = Paper::plain(width);
            let long = line(&"x".repeat(300));
            let text = paper.columns(std::slice::from_ref(&long), &[long.clone(), line("y")])
                + &paper.wrapped(&long)
                + &paper.rule("heading")
                + &paper.paragraph("- ", Style::Good, &"some words ".repeat(30));
            assert!(text.lines().all(|line| line.chars().count() <= width));
        }
    }

    #[test]
    fn pieces_flow_and_lines_break_where_it_reads_well() {
        let paper = Paper::plain(40);
        let pieces = ["one", "two", "more than there is any room for"].map(line);
        assert_eq!(
            paper.flow(&pieces),
            "one   two\nmore than there is any room for\n"
        );
        let long = format!("{},{}", "x".repeat(30), "y".repeat(50));
        let expected = format!(
            "{},\n{}\n{}\n",
            "x".repeat(30),
            "y".repeat(40),
            "y".repeat(10)
        );
        assert_eq!(paper.wrapped(&line(&long)), expected);
    }

    #[test]
    fn colours_are_codes_around_the_text_and_control_characters_are_not_sent() {
        let colourful = Paper {
            width: 80,
            colours: Colours::Ansi,
        };
        let text = colourful.wrapped(&line("a\x1b[2Jb").with("c", Style::Plain));
        assert_eq!(text, "\x1b[1;31ma·[2Jb\x1b[0mc\n");
        assert_eq!(Paper::plain(80).wrapped(&line("a")), "a\n");
    }
}
