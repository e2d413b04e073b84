//! Manual pages and shell completions, both made from the description of the command line, for both programs.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, ValueEnum};

/// The shells that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

/// Returns the completions of a program as a script of the shell.
pub fn completions(mut program: Command, shell: Shell) -> Vec<u8> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut program, &name, &mut script);
    if shell == clap_complete::Shell::Bash && name.contains('-') {
        // clap_complete 4.6 spells a program's hyphen in two ways in one script, so that no subcommand is completed.
        let (one, other) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
        script = String::from_utf8_lossy(&script)
            .replace(&one, &other)
            .into_bytes();
    }
    script
}

/// Writes a page for the program and one for each of its commands into a directory, which must be there; returns
/// their paths.
pub fn write_pages(program: Command, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let version = program.get_version().unwrap_or_default();
    let source = format!("{} {version}", program.get_name());
    let mut pages = Vec::new();
    write_page(&program, &source, directory, &mut pages)?;
    Ok(pages)
}

fn write_page(
    command: &Command,
    source: &str,
    directory: &Path,
    pages: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).source(source);
    let path = directory.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs_err::write(&path, text)?;
    pages.push(path);
    for subcommand in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_page(subcommand, source, directory, pages)?;
    }
    Ok(())
}
