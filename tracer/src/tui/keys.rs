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
    Binding { keys: &[Code(KeyCode::Up), char('k')], action: Action::Up, shown: "↑ k", hint: "", text: "up" },
    Binding {
        keys: &[Code(KeyCode::Down), char('j')],
        action: Action::Down,
        shown: "↓ j",
        hint: "↑↓ move",
        text: "down",
    },
    Binding {
        keys: &[Code(KeyCode::PageUp), Ctrl('b')],
        action: Action::PageUp,
        shown: "PgUp",
        hint: "",
        text: "a page up",
    },
    Binding {
        keys: &[Code(KeyCode::PageDown), Ctrl('f')],
        action: Action::PageDown,
        shown: "PgDn",
        hint: "",
        text: "a page down",
    },
    Binding {
        keys: &[char('g'), Code(KeyCode::Home)],
        action: Action::First,
        shown: "g Home",
        hint: "",
        text: "to the top, and stay there as new ones come",
    },
    Binding {
        keys: &[char('G'), Code(KeyCode::End)],
        action: Action::Last,
        shown: "G End",
        hint: "",
        text: "to the end",
    },
    Binding {
        keys: &[Code(KeyCode::Enter), char('l'), Code(KeyCode::Right)],
        action: Action::Open,
        shown: "Enter l →",
        hint: "Enter open",
        text: "all about the finding, with the long explanation",
    },
    Binding {
        keys: &[Code(KeyCode::Esc), char('h'), Code(KeyCode::Left), Code(KeyCode::Backspace)],
        action: Action::Back,
        shown: "Esc h ←",
        hint: "Esc back",
        text: "back; in the list: drop the filter",
    },
    Binding {
        keys: &[char('/')],
        action: Action::Filter,
        shown: "/",
        hint: "/ filter",
        text: "show only rows with these words",
    },
    Binding { keys: &[char('s')], action: Action::Sort, shown: "s", hint: "s sort", text: "sort by the next column" },
    Binding { keys: &[char('S')], action: Action::Reverse, shown: "S", hint: "", text: "the other way round" },
    Binding { keys: &[Code(KeyCode::Tab)], action: Action::NextTab, shown: "Tab", hint: "", text: "the next tab" },
    Binding {
        keys: &[Code(KeyCode::BackTab)],
        action: Action::PreviousTab,
        shown: "Shift-Tab",
        hint: "",
        text: "the tab before",
    },
    Binding {
        keys: &[char(' ')],
        action: Action::Freeze,
        shown: "space",
        hint: "space freeze",
        text: "hold the list still; what is new is counted",
    },
    Binding {
        keys: &[char('c')],
        action: Action::CopyFix,
        shown: "c",
        hint: "c copy",
        text: "copy the fix to the clipboard (OSC 52)",
    },
    Binding {
        keys: &[char('e')],
        action: Action::Explain,
        shown: "e",
        hint: "e explain",
        text: "the long text behind the finding's code",
    },
    Binding {
        keys: &[char('n')],
        action: Action::Notes,
        shown: "n",
        hint: "",
        text: "notes: what was lost, and what ctrace said besides findings",
    },
    Binding { keys: &[char('?'), Code(KeyCode::F(1))], action: Action::Help, shown: "?", hint: "? help", text: "this" },
    Binding {
        keys: &[Ctrl('z')],
        action: Action::Suspend,
        shown: "Ctrl-Z",
        hint: "",
        text: "to the shell; fg comes back",
    },
    Binding { keys: &[char('q'), Ctrl('c')], action: Action::Quit, shown: "q Ctrl-C", hint: "q quit", text: "quit" },
];

/// What a key means in a list or a page.
pub fn action(event: KeyEvent) -> Option<Action> {
    let key = match event.code {
        KeyCode::Char(char) if event.modifiers.contains(KeyModifiers::CONTROL) => Ctrl(char.to_ascii_lowercase()),
        KeyCode::Char(_) if event.modifiers.contains(KeyModifiers::ALT) => return None,
        code => Code(code),
    };
    BINDINGS.iter().find(|binding| binding.keys.contains(&key)).map(|binding| binding.action)
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
        let keys: Vec<&Key> = BINDINGS.iter().flat_map(|binding| binding.keys).collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key:?} twice");
        }
        assert!(BINDINGS.iter().all(|binding| !binding.text.is_empty() && !binding.shown.is_empty()));
    }

    #[test]
    fn control_is_told_from_the_letter() {
        let press = |code, modifiers| action(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), Some(Action::CopyFix));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Quit));
        assert_eq!(press(KeyCode::Char('G'), KeyModifiers::SHIFT), Some(Action::Last));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::ALT), None);
    }
}
