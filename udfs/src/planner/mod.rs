//! Planner of the window functions: from SQL to logical nodes, from logical nodes to operators.

mod arguments;
mod constant;
mod physical;
mod relation;

pub use physical::WindowExtensionPlanner;
pub use relation::WindowRelationPlanner;
