//! Where the values of several paths begin in a JSON text, found in one pass over it.
//!
//! It finds what `datafusion-functions-json` finds with one pass per path: the first of equal keys counts, an element of an array is
//! reached by a number or by the text of one, a negative number counts from the array's end, and what follows a value, or does not
//! parse behind it, does not matter to it.

use datafusion::common::ScalarValue;
use jiter::{Jiter, Peek};

/// Steps of the longest path: each takes room on the stack.
const LONGEST: usize = 64;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum JsonStep {
    /// To the value of a key.
    Key(String),
    /// To an element of an array.
    Index(isize),
}

impl JsonStep {
    /// The step that a literal argument stands for; `None` for those that stand for none, or for several.
    fn of(value: &ScalarValue) -> Option<Self> {
        match value {
            ScalarValue::Utf8(key) | ScalarValue::LargeUtf8(key) | ScalarValue::Utf8View(key) => {
                key.clone().map(Self::Key)
            }
            ScalarValue::Int64(index) => isize::try_from((*index)?).ok().map(Self::Index),
            ScalarValue::UInt64(index) => isize::try_from((*index)?).ok().map(Self::Index),
            _ => None,
        }
    }

    /// The element of an array that it leads to.
    fn index(&self) -> Option<isize> {
        match self {
            Self::Key(key) => key.parse().ok(),
            Self::Index(index) => Some(*index),
        }
    }

    fn is_key(&self, name: &str) -> bool {
        matches!(self, Self::Key(key) if key == name)
    }
}

/// The path of literal arguments, if it can be found together with others.
pub(crate) fn json_path<'a>(
    literals: impl ExactSizeIterator<Item = Option<&'a ScalarValue>>,
) -> Option<Vec<JsonStep>> {
    if literals.len() == 0 || literals.len() > LONGEST {
        return None;
    }
    literals.map(|value| JsonStep::of(value?)).collect()
}

/// Several paths by their common beginnings.
#[derive(Debug, Default)]
pub(crate) struct PathTree {
    root: PathNode,
    paths: usize,
    texts: u64,
}

#[derive(Debug, Default)]
struct PathNode {
    /// The number of the path that ends here.
    path: Option<usize>,
    branches: Vec<PathBranch>,
}

#[derive(Debug)]
struct PathBranch {
    step: JsonStep,
    index: Option<isize>,
    /// The text in which its value was found last.
    found_in: u64,
    node: PathNode,
}

impl PathTree {
    /// Adds a path and returns its number; equal paths have one number.
    pub(crate) fn add(&mut self, path: &[JsonStep]) -> usize {
        self.root.add(path, &mut self.paths)
    }

    /// The number of different paths.
    pub(crate) fn len(&self) -> usize {
        self.paths
    }

    /// Sets for each path, by its number, the place where its value begins in this text; `None` if there is no such value.
    pub(crate) fn find(&mut self, text: &str, starts: &mut [Option<usize>]) {
        starts.fill(None);
        self.texts += 1;
        let mut jiter = Jiter::new(text.as_bytes());
        if let Ok(peek) = jiter.peek() {
            self.root.reached(&jiter, peek, self.texts, starts);
        }
    }
}

impl PathNode {
    fn add(&mut self, path: &[JsonStep], paths: &mut usize) -> usize {
        let Some((step, rest)) = path.split_first() else {
            return *self.path.get_or_insert_with(|| {
                *paths += 1;
                *paths - 1
            });
        };
        let mut branches = self.branches.iter_mut();
        if let Some(branch) = branches.find(|branch| branch.step == *step) {
            return branch.node.add(rest, paths);
        }
        let mut branch = PathBranch {
            step: step.clone(),
            index: step.index(),
            found_in: 0,
            node: PathNode::default(),
        };
        let number = branch.node.add(rest, paths);
        self.branches.push(branch);
        number
    }

    /// Goes on from the value of this node, at which the parser stands.
    fn reached(&mut self, jiter: &Jiter<'_>, peek: Peek, text: u64, starts: &mut [Option<usize>]) {
        if let Some(start) = self.path.and_then(|path| starts.get_mut(path)) {
            *start = Some(jiter.current_index());
        }
        if self.branches.is_empty() {
            return;
        }
        // At the first text that does not parse, all values that were not found yet are missing.
        let _ = match peek {
            Peek::Object => in_object(&mut self.branches, jiter.clone(), text, starts),
            Peek::Array => in_array(&mut self.branches, jiter.clone(), text, starts),
            _ => None,
        };
    }
}

fn in_object(
    branches: &mut [PathBranch],
    mut jiter: Jiter<'_>,
    text: u64,
    starts: &mut [Option<usize>],
) -> Option<()> {
    let keys = branches
        .iter()
        .filter(|branch| matches!(branch.step, JsonStep::Key(_)));
    let mut left = keys.count();
    if left == 0 {
        return None;
    }
    let mut key = jiter.known_object().ok()?;
    loop {
        let name = key?;
        let wanted = branches
            .iter_mut()
            .find(|branch| branch.found_in != text && branch.step.is_key(name));
        let peek = jiter.peek().ok()?;
        if let Some(branch) = wanted {
            branch.found_in = text;
            branch.node.reached(&jiter, peek, text, starts);
            left -= 1;
            if left == 0 {
                return Some(());
            }
        }
        jiter.known_skip(peek).ok()?;
        key = jiter.next_key().ok()?;
    }
}

fn in_array(
    branches: &mut [PathBranch],
    mut jiter: Jiter<'_>,
    text: u64,
    starts: &mut [Option<usize>],
) -> Option<()> {
    let is_from_end = branches
        .iter()
        .any(|branch| branch.index.is_some_and(|index| index < 0));
    let elements = match is_from_end {
        true => count(jiter.clone()),
        false => None,
    };
    let place = |index: isize| match usize::try_from(index) {
        Ok(place) => Some(place),
        Err(_) => elements?.checked_add_signed(index),
    };
    let mut wanted: Vec<(usize, &mut PathBranch)> = branches
        .iter_mut()
        .filter_map(|branch| Some((place(branch.index?)?, branch)))
        .collect();
    wanted.sort_by_key(|(place, _)| *place);
    let mut element = jiter.known_array().ok()??;
    let mut at = 0;
    for (place, branch) in wanted {
        while at < place {
            jiter.known_skip(element).ok()?;
            element = jiter.array_step().ok()??;
            at += 1;
        }
        branch.node.reached(&jiter, element, text, starts);
    }
    Some(())
}

/// The number of elements of the array at which the parser stands; `None` if it does not parse.
fn count(mut jiter: Jiter<'_>) -> Option<usize> {
    let mut element = jiter.known_array().ok()?;
    let mut elements = 0;
    while let Some(peek) = element {
        jiter.known_skip(peek).ok()?;
        elements += 1;
        element = jiter.array_step().ok()?;
    }
    Some(elements)
}
