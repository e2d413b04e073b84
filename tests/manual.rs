//! Manual pages and completions of both programs, read by the programs that are to read them.

use std::path::Path;
use std::process::Command;

use crate::support::{Run, TestEnv, lacks, names_in};

/// Both programs, as they are called.
const PROGRAMS: [&str; 2] = ["fetch", "store-index"];

fn run<'env>(env: &'env TestEnv, program: &str, args: &[&str]) -> Run<'env> {
    match program {
        "fetch" => env.fetch(args),
        _ => env.store_index(args),
    }
}

/// Returns the commands that the help of a command lists, and theirs, as `man` calls their pages.
fn pages_by_help(env: &TestEnv, program: &str, command: &[String], pages: &mut Vec<String>) {
    let page = [&[program.to_owned()], command].concat().join("-");
    pages.push(format!("{page}.1"));
    let mut args: Vec<_> = command.iter().map(String::as_str).collect();
    args.push("--help");
    let help = run(env, program, &args).go().exits(0).stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in listed.take_while(|line| !line.is_empty()) {
        let Some(name) = line
            .strip_prefix("  ")
            .filter(|rest| !rest.starts_with(' '))
        else {
            continue;
        };
        let name = name.split_whitespace().next().unwrap();
        if name != "help" {
            pages_by_help(env, program, &[command, &[name.to_owned()]].concat(), pages);
        }
    }
}

#[test]
fn every_command_has_a_page() {
    let env = TestEnv::new();
    for program in PROGRAMS {
        let mut expected = Vec::new();
        pages_by_help(&env, program, &[], &mut expected);
        expected.sort();
        assert!(expected.len() >= 4, "{expected:?}");
        let pages = env.path(format!("pages of {program}"));
        fs_err::create_dir(&pages).unwrap();
        let outcome = run(&env, program, &["man"]).arg(&pages).go().exits(0);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
        assert_eq!(names_in(&pages), expected);
        // Once more, over what is there.
        run(&env, program, &["man"]).arg(&pages).go().exits(0);
        let missing = env.path("missing");
        run(&env, program, &["man"])
            .arg(&missing)
            .go()
            .exits(7)
            .says("must be there");
    }
}

#[test]
fn pages_are_what_man_wants() {
    if lacks("manual pages", &["groff"], false) {
        return;
    }
    let env = TestEnv::new();
    for program in PROGRAMS {
        run(&env, program, &["man"])
            .arg(env.path("tmp"))
            .go()
            .exits(0);
    }
    for page in names_in(&env.path("tmp")) {
        let rendered = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-P-cbou", "-rLL=100n"])
            .arg(env.path("tmp").join(&page))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&rendered.stderr);
        assert!(
            rendered.status.success() && errors.is_empty(),
            "{page}: {errors}"
        );
        let text = String::from_utf8_lossy(&rendered.stdout);
        assert!(text.contains("SYNOPSIS"), "{page}: {text}");
    }
}

/// Writes the completions and returns where.
fn script(env: &TestEnv, program: &str, shell: &str) -> std::path::PathBuf {
    let outcome = run(env, program, &["completions", shell]).go().exits(0);
    env.write(format!("{program}.{shell}"), outcome.stdout)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{command:?}: {errors}"
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes() {
    let env = TestEnv::new();
    let complete = |program: &str, words: &[&str]| {
        let script = script(&env, program, "bash");
        output(Command::new("bash").arg("-n").arg(&script));
        // What bash does at a tab.
        let ask = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            function=$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/')
            "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        output(
            Command::new("bash")
                .args(["--norc", "-c", ask, "bash"])
                .arg(&script)
                .arg(program)
                .args(words),
        )
    };
    assert_eq!(complete("fetch", &["expl"]), "explain\n");
    assert_eq!(complete("fetch", &["--stale"]), "--stale-hash\n");
    assert_eq!(complete("fetch", &["completions", "z"]), "zsh\n");
    assert_eq!(complete("store-index", &["up"]), "update\n");
    assert_eq!(complete("store-index", &["media", "for"]), "forget\n");
    assert_eq!(
        complete("store-index", &["update", "--hints"]),
        "--hints-only\n"
    );
}

#[test]
fn fish_completes() {
    if lacks("completions for fish", &["fish"], false) {
        return;
    }
    let env = TestEnv::new();
    for (program, line, expected) in [
        ("fetch", "fetch expl", "explain"),
        ("store-index", "store-index media for", "forget"),
    ] {
        let script = script(&env, program, "fish");
        let ask = "source $argv[1]; complete -C $argv[2]";
        let mut fish = Command::new("fish");
        fish.args(["--private", "--no-config", "-c", ask])
            .arg(&script)
            .arg(line)
            .env("HOME", env.path("home"));
        let said = output(&mut fish);
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn zsh_reads_the_completions() {
    if lacks("completions for zsh", &["zsh"], false) {
        return;
    }
    let env = TestEnv::new();
    for program in PROGRAMS {
        let script = script(&env, program, "zsh");
        output(Command::new("zsh").args(["-f", "-n"]).arg(&script));
        // The completion system takes it from a folder, by its name and first line.
        fs_err::rename(&script, env.path("out").join(format!("_{program}"))).unwrap();
        let ask =
            "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -d $2; print -- $_comps[$3]";
        let said = output(
            Command::new("zsh")
                .args(["-f", "-c", ask, "zsh"])
                .args([env.path("out"), env.path("tmp/dump")])
                .arg(Path::new(program))
                .env("HOME", env.path("home")),
        );
        assert_eq!(said.trim_end(), format!("_{program}"));
    }
}

#[test]
fn other_shells_are_refused_and_a_bad_configuration_is_not_in_the_way() {
    let env = TestEnv::new();
    env.fetch(["completions", "tcsh"])
        .go()
        .exits(2)
        .says("bash");
    env.write("config/fetch/fetch.toml", "wrong = 1\n");
    env.fetch(["completions", "bash"]).go().exits(0);
}
