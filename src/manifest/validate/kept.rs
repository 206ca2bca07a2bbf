//! Kinds that are kept, so that a folder or a client that carries them works, and that nothing follows from yet.

use crate::api::Kind;
use crate::manifest::diagnostic::DiagnosticCode;
use crate::manifest::path::FieldPath;
use crate::manifest::report::Report;

/// Says of such a kind that nothing follows from it, and what to do instead.
pub(super) fn check(kind: Kind, report: &mut Report<'_>) {
    let Some(help) = instead(kind) else { return };
    let message = format!("kind `{kind}` is kept, and nothing follows from it in this version");
    report.warning(&FieldPath::of(&["kind"]), DiagnosticCode::NotServed, message);
    report.help(help);
}

fn instead(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::LocalModelNodeGroup => "there is one node, and the model cache is its store",
        _ => return None,
    })
}
