//! `cache export` and `import`.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use anyhow::Result;

use super::super::output;
use super::super::report::{Exit, Problem};
use super::{ExportArgs, ImportArgs, find};
use crate::plan::said::bytes;
use crate::storage::{Cache, TransferError};

/// Writes an archive, whole or not at all when it is a file.
pub(super) fn export(cache: &Cache, args: &ExportArgs) -> Result<Exit> {
    let ids: Vec<String> = find(cache, &args.models)?.into_iter().map(|entry| entry.id).collect();
    if args.file == "-" {
        cache.export(&ids, io::stdout().lock()).map_err(output::StdoutError)?;
        return Ok(Exit::Done);
    }
    let failed = |error| Problem::machine(format!("could not write `{}`", args.file)).because(error);
    let partial = args.file.with_file_name(format!(".{}.partial", args.file.file_name().unwrap_or("export")));
    let written = File::create(&partial)
        .and_then(|file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            cache.export(&ids, &mut out)?;
            out.flush()?;
            out.get_ref().sync_all()
        })
        .and_then(|()| std::fs::rename(&partial, &args.file));
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&partial);
        return Err(failed(error).into());
    }
    let size = std::fs::metadata(&args.file).map_err(failed)?.len();
    output::note(&format!("{} models written to {}, {}", ids.len(), args.file, bytes(size)));
    Ok(Exit::Done)
}

/// Takes an archive.
pub(super) fn import(cache: &Cache, args: &ImportArgs) -> Result<Exit> {
    let imported = cache.import(&args.file).map_err(|error| {
        let machine = matches!(error, TransferError::Disk(_));
        let exit = if machine { Exit::Machine } else { Exit::Usage };
        Problem::new(exit, format!("`{}` was not taken", args.file)).because(error)
    })?;
    for model in imported {
        let how = if model.was_here { "was here already" } else { "imported" };
        output::line(&format!("{} {how}, {}", model.uri, bytes(model.size)))?;
    }
    Ok(Exit::Done)
}
