//! The keys: one table, from which the keys work, the bottom line hints and the help is made.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
    Filter,
    Sort,
    Reverse,
    NextTab,
    PreviousTab,
    Freeze,
    Explain,
    CopyFix,
    Notes,
    Help,
    Suspend,
    Quit,
    /// Live: begin a recording with what is kept of the last minutes, or end it.
    Record,
    /// Of a recording that is shown.
    Play(Play),
}

/// What can be done with time that is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    Pause,
    Faster,
    Slower,
    /// Seconds; backwards where negative.
    Skip(i64),
    Start,
    End,
}

/// Where a key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Live,
    Replay,
    Both,
}

impl Where {
    pub fn is(self, replay: bool) -> bool {
        match self {
            Self::Live => !replay,
            Self::Replay => replay,
            Self::Both => true,
        }
    }
}

/// Some keys that do one thing.
#[derive(Debug)]
pub struct Binding {
    pub keys: &'static [Key],
    pub action: Action,
    /// The keys as they are written.
    pub shown: &'static str,
    /// In the bottom line, key and word; empty: only in the help.
    pub hint: &'static str,
    /// In the help.
    pub text: &'static str,
    pub on: Where,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Key {
    Code(KeyCode),
    Ctrl(char),
}

use Key::{Code, Ctrl};

const fn char(char: char) -> Key {
    Code(KeyCode::Char(char))
}

/// In the order of the help; the hints in the order of their use.
pub const BINDINGS: &[Binding] = &[
    Binding {
        keys: &[Code(KeyCode::Up), char('k')],
        action: Action::Up,
        shown: "↑ k",
        hint: "",
        text: "up",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::Down), char('j')],
        action: Action::Down,
        shown: "↓ j",
        hint: "↑↓ move",
        text: "down",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::PageUp), Ctrl('b')],
        action: Action::PageUp,
        shown: "PgUp",
        hint: "",
        text: "a page up",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::PageDown), Ctrl('f')],
        action: Action::PageDown,
        shown: "PgDn",
        hint: "",
        text: "a page down",
        on: Where::Both,
    },
    Binding {
        keys: &[char('g'), Code(KeyCode::Home)],
        action: Action::First,
        shown: "g Home",
        hint: "",
        text: "to the top, and stay there as new ones come",
        on: Where::Both,
    },
    Binding {
        keys: &[char('G'), Code(KeyCode::End)],
        action: Action::Last,
        shown: "G End",
        hint: "",
        text: "to the end",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::Enter), char('l'), Code(KeyCode::Right)],
        action: Action::Open,
        shown: "Enter l →",
        hint: "Enter open",
        text: "all about the finding, with the long explanation",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::Esc), char('h'), Code(KeyCode::Left), Code(KeyCode::Backspace)],
        action: Action::Back,
        shown: "Esc h ←",
        hint: "Esc back",
        text: "back; in the list: drop the filter",
        on: Where::Both,
    },
    Binding {
        keys: &[char('/')],
        action: Action::Filter,
        shown: "/",
        hint: "/ filter",
        text: "show only rows with these words",
        on: Where::Both,
    },
    Binding {
        keys: &[char('s')],
        action: Action::Sort,
        shown: "s",
        hint: "s sort",
        text: "sort by the next column",
        on: Where::Both,
    },
    Binding {
        keys: &[char('S')],
        action: Action::Reverse,
        shown: "S",
        hint: "",
        text: "the other way round",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::Tab)],
        action: Action::NextTab,
        shown: "Tab",
        hint: "",
        text: "the next tab",
        on: Where::Both,
    },
    Binding {
        keys: &[Code(KeyCode::BackTab)],
        action: Action::PreviousTab,
        shown: "Shift-Tab",
        hint: "",
        text: "the tab before",
        on: Where::Both,
    },
    Binding {
        keys: &[char(' ')],
        action: Action::Freeze,
        shown: "space",
        hint: "space freeze",
        text: "hold the list still; what is new is counted",
        on: Where::Live,
    },
    Binding {
        keys: &[char('c')],
        action: Action::CopyFix,
        shown: "c",
        hint: "c copy",
        text: "copy the fix to the clipboard (OSC 52)",
        on: Where::Both,
    },
    Binding {
        keys: &[char('e')],
        action: Action::Explain,
        shown: "e",
        hint: "e explain",
        text: "the long text behind the finding's code",
        on: Where::Both,
    },
    Binding {
        keys: &[char('n')],
        action: Action::Notes,
        shown: "n",
        hint: "",
        text: "notes: what was lost, and what ctrace said besides findings",
        on: Where::Both,
    },
    Binding {
        keys: &[char('w')],
        action: Action::Record,
        shown: "w",
        hint: "",
        text: "record: the last minutes and what comes; w ends it",
        on: Where::Live,
    },
    Binding {
        keys: &[char(' ')],
        action: Action::Play(Play::Pause),
        shown: "space",
        hint: "space pause",
        text: "hold the time still; go on",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('+'), char('=')],
        action: Action::Play(Play::Faster),
        shown: "+",
        hint: "+- speed",
        text: "twice as fast, up to 64 times, then as fast as it goes",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('-')],
        action: Action::Play(Play::Slower),
        shown: "-",
        hint: "",
        text: "half as fast",
        on: Where::Replay,
    },
    Binding {
        keys: &[char(']')],
        action: Action::Play(Play::Skip(10)),
        shown: "]",
        hint: "[] 10 s",
        text: "10 s on",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('[')],
        action: Action::Play(Play::Skip(-10)),
        shown: "[",
        hint: "",
        text: "10 s back",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('}')],
        action: Action::Play(Play::Skip(60)),
        shown: "}",
        hint: "",
        text: "a minute on",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('{')],
        action: Action::Play(Play::Skip(-60)),
        shown: "{",
        hint: "",
        text: "a minute back",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('0')],
        action: Action::Play(Play::Start),
        shown: "0",
        hint: "",
        text: "to the start of the recording",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('$')],
        action: Action::Play(Play::End),
        shown: "$",
        hint: "",
        text: "to its end",
        on: Where::Replay,
    },
    Binding {
        keys: &[char('?'), Code(KeyCode::F(1))],
        action: Action::Help,
        shown: "?",
        hint: "? help",
        text: "this",
        on: Where::Both,
    },
    Binding {
        keys: &[Ctrl('z')],
        action: Action::Suspend,
        shown: "Ctrl-Z",
        hint: "",
        text: "to the shell; fg comes back",
        on: Where::Both,
    },
    Binding {
        keys: &[char('q'), Ctrl('c')],
        action: Action::Quit,
        shown: "q Ctrl-C",
        hint: "q quit",
        text: "quit",
        on: Where::Both,
    },
];

/// What a key means in a list or a page.
pub fn action(event: KeyEvent, replay: bool) -> Option<Action> {
    let key = match event.code {
        KeyCode::Char(char) if event.modifiers.contains(KeyModifiers::CONTROL) => Ctrl(char.to_ascii_lowercase()),
        KeyCode::Char(_) if event.modifiers.contains(KeyModifiers::ALT) => return None,
        code => Code(code),
    };
    BINDINGS.iter().find(|binding| binding.on.is(replay) && binding.keys.contains(&key)).map(|binding| binding.action)
}

/// The hint of an action that has one: key and word.
pub fn hint(action: Action) -> Option<(&'static str, &'static str)> {
    BINDINGS.iter().find(|binding| binding.action == action)?.hint.split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things_and_each_binding_says_what_it_does() {
        for replay in [false, true] {
            let here = BINDINGS.iter().filter(|binding| binding.on.is(replay));
            let keys: Vec<&Key> = here.flat_map(|binding| binding.keys).collect();
            for (index, key) in keys.iter().enumerate() {
                assert!(!keys[..index].contains(key), "{key:?} twice");
            }
        }
        assert!(BINDINGS.iter().all(|binding| !binding.text.is_empty() && !binding.shown.is_empty()));
    }

    #[test]
    fn control_is_told_from_the_letter() {
        let press = |code, modifiers| action(KeyEvent::new(code, modifiers), false);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), Some(Action::CopyFix));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('G'), KeyModifiers::SHIFT), Some(Action::Last));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::ALT), None);
    }
}
