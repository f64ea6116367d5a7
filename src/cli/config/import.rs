//! `stillpoint config import`: a configuration from that of another tool.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum, ValueHint};
use serde::Serialize;
use stillpoint_contract::{Error, ErrorKind, Result, code, quoted};

use super::{
    super::{
        answer::Answer,
        page::{Page, Table, Tone, printable},
        session::Session,
        units::count,
    },
    command::write_new,
};
use crate::config::{IMPORT_BYTES_MAX, Imported, Left, Peer, Source, barman_directory, import};

/// Files of servers that are read.
const FILES_MAX: usize = 1_000;

/// What `config import` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Whose configuration it is.
    from: From,
    /// Its file: pgbackrest.conf, barman.conf, or what WAL-G reads as JSON or as variables.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// The file to write; it must not be there yet [default: print it].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    to: Option<PathBuf>,
}

/// Another tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// pgBackRest.
    #[value(name = "pgbackrest")]
    PgBackRest,
    /// Barman; files of servers are read from the directory that its file names, or from barman.d
    /// beside it.
    Barman,
    /// WAL-G.
    WalG,
}

#[derive(Debug, Serialize)]
struct ImportAnswer {
    path: Option<String>,
    /// The files that were read.
    files: Vec<String>,
    /// What the files do not say, and was assumed.
    assumed: Vec<String>,
    /// Every setting that was not carried over.
    left: Vec<LeftOut>,
    text: String,
}

#[derive(Debug, Serialize)]
struct LeftOut {
    file: String,
    line: usize,
    section: String,
    key: String,
    why: String,
}

impl std::convert::From<Left> for LeftOut {
    fn from(left: Left) -> Self {
        let Left { file, line, section, key, why } = left;
        Self { file, line, section, key, why }
    }
}

impl Answer for ImportAnswer {
    const SCHEMA: &'static str = "config-import/1";

    fn write(&self, page: &mut Page<'_>) {
        let Some(path) = &self.path else {
            page.line(self.text.trim_end());
            return;
        };
        page.line(page.paint(Tone::Strong, &format!("Wrote {}", printable(path))));
        for what in &self.assumed {
            page.line(format!("assumed: {}", printable(what)));
        }
        if !self.left.is_empty() {
            let mut table = Table::new(&["LINE", "NOT CARRIED OVER", "WHY"]);
            for LeftOut { file, line, section, key, why } in &self.left {
                let section =
                    if section.is_empty() { String::new() } else { format!("[{section}] ") };
                let place = format!("{file}:{line}");
                table.row(vec![place, format!("{section}{key}"), why.clone()]);
            }
            page.table(&table);
        }
        page.line(format!("Next: stillpoint config check -c {}", quoted(path)));
    }
}

/// Translates it.
pub(super) fn run(session: &Session, options: Options) -> Result<()> {
    let mut sources = vec![read(&options.file)?];
    let peer = match options.from {
        From::PgBackRest => Peer::PgBackRest,
        From::WalG => Peer::WalG,
        From::Barman => {
            sources.extend(servers(&options.file, &sources[0])?);
            Peer::Barman
        }
    };
    let Imported { text, left, assumed } = import(peer, &sources)?;
    if let Some(path) = &options.to {
        write_new(path, &text)?;
    } else {
        let left = count(left.len() as u64, "setting was", "settings were");
        session.note(&format!("{left} not carried over: the comments say which, and why"));
    }
    session.answer(&ImportAnswer {
        path: options.to.map(|path| path.display().to_string()),
        files: sources.into_iter().map(|source| source.path).collect(),
        assumed,
        left: left.into_iter().map(LeftOut::from).collect(),
        text,
    })
}

fn read(path: &Path) -> Result<Source> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| {
        let read = file.take(IMPORT_BYTES_MAX + 1).read_to_string(&mut text)?;
        if read as u64 > IMPORT_BYTES_MAX {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            Ok(())
        }
    });
    file.map_err(|cause| failed(cause, path))?;
    Ok(Source { path: path.display().to_string(), text })
}

/// The files of servers that belong to a main file of Barman.
fn servers(main: &Path, source: &Source) -> Result<Vec<Source>> {
    let named = barman_directory(source)?.map(|directory| main.with_file_name(directory));
    let beside = main.with_file_name("barman.d");
    let directory = named.filter(|directory| directory.is_dir()).unwrap_or(beside);
    let listed = match fs::read_dir(&directory) {
        Ok(listed) => listed,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(failed(cause, &directory)),
    };
    let mut paths = Vec::new();
    for entry in listed {
        let path = entry.map_err(|cause| failed(cause, &directory))?.path();
        if path.extension().is_some_and(|end| end == "conf") {
            if paths.len() == FILES_MAX {
                return Err(failed(io::ErrorKind::FileTooLarge.into(), &directory)
                    .with("files at most", FILES_MAX));
            }
            paths.push(path);
        }
    }
    paths.sort_unstable();
    paths.iter().map(|path| read(path)).collect()
}

fn failed(cause: io::Error, path: &Path) -> Error {
    Error::new(ErrorKind::Config, code::FILE, "read the configuration of another tool")
        .with("file", path.display())
        .caused_by(cause)
}
