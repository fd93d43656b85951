//! Scripts from files, their parameters, and the statements of a script ready to run.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::planner::{BoundText, Parameters, ParsedStatement, Script, parse_statement};

/// A statement that may run.
pub(crate) struct BoundStatement {
    pub(crate) parsed: ParsedStatement,
    /// The text that is sent to a server.
    pub(crate) bound: BoundText,
}

/// Parses and binds a script.
pub(crate) fn prepare(script: &Script, parameters: &mut Parameters) -> Result<Vec<BoundStatement>> {
    let mut statements = Vec::new();
    for raw in script.split()? {
        let mut parsed = parse_statement(&raw)?;
        let bound = parameters.bind_text(&raw, &mut parsed)?;
        statements.push(BoundStatement { parsed, bound });
    }
    Ok(statements)
}

/// The scripts in `files`, in their order.
pub(crate) fn read_scripts(files: &[PathBuf]) -> Result<Vec<Script>> {
    files.iter().map(|file| read_script(file)).collect()
}

fn read_script(file: &Path) -> Result<Script> {
    let name = file.display().to_string();
    let bytes = std::fs::read(file)
        .map_err(|error| Error::invalid(format!("{name} cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Error::invalid(format!(
            "{name} is not UTF-8 at byte {}",
            error.utf8_error().valid_up_to()
        ))
    })?;
    Ok(Script::new(name, text))
}

/// The parameters given on the command line.
pub(crate) fn parameters(given: &[(String, String)]) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, value) in given {
        parameters.set(name, value);
    }
    parameters
}
