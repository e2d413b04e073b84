//! `store-index check`.

use store_index::check as library;
use store_index::index::{Index, OpenError};
use store_index::path_text;
use store_index::watch::Watch;

use super::{DONE, Failure, Locator, WRONG, open_indexes, print, print_json, shown};
use crate::cli::{CheckArgs, Talk};
use store_index::terminal::say;

pub(crate) fn check(args: &CheckArgs, talk: &Talk, watch: Watch<'_>) -> Result<u8, Failure> {
    let locator = Locator::new(&args.places)?;
    let (mut all, mut wrong, mut checked) = (Vec::new(), 0, 0);
    let mut all_compared = true;
    for index in open_indexes(&args.places)? {
        checked += 1;
        // One that cannot be opened is looked at all the same: the report says what is wrong with it.
        let mut untouched = None;
        let (directory, report) = match &index {
            Ok(index) => {
                let located = args.content.then(|| locator.locate(index));
                let real = located.and_then(|located| {
                    located.warn_untouched(talk);
                    if located.untouched {
                        untouched = Some(located.real);
                        return None;
                    }
                    Some(located.real)
                });
                (
                    index.directory().to_owned(),
                    library::check(index.directory(), real.as_deref(), watch),
                )
            }
            Err(error) => (
                error.directory().to_owned(),
                library::check(error.directory(), None, watch),
            ),
        };
        if report.interrupted {
            return Err(Failure::Interrupted);
        }
        wrong += report.wrong;
        all_compared &= untouched.is_none();
        if args.json {
            let is_compared = args.content && index.is_ok() && untouched.is_none();
            all.push(json(&directory, &report, is_compared));
            continue;
        }
        if let Some(real) = untouched {
            print(&format!(
                "{}: not compared, as it was not named\n",
                shown(&real)
            ))?;
        }
        for finding in &report.findings {
            print(&format!("{}: {}\n", shown(&finding.place), finding.what))?;
        }
        let more = report.wrong - report.findings.len() as u64;
        if more > 0 {
            print(&format!("{more} more\n"))?;
        }
        if !talk.quiet {
            describe(&index, &directory, &report);
        }
    }
    if args.json {
        print_json(&serde_json::Value::Array(all))?;
    }
    if checked == 0 && !talk.quiet {
        say("there is no index to check; make one with `store-index update`");
    }
    // What was asked for and not done is not in order either.
    Ok(if wrong == 0 && all_compared {
        DONE
    } else {
        WRONG
    })
}

fn describe(
    index: &Result<Index, OpenError>,
    directory: &std::path::Path,
    report: &library::Report,
) {
    let read = if report.files_read > 0 {
        format!(", {} files read", report.files_read)
    } else {
        String::new()
    };
    say(&match report.wrong {
        0 => format!(
            "{}: {} objects{read}, nothing wrong",
            shown(directory),
            report.objects
        ),
        wrong => format!(
            "{}: {} objects{read}, {wrong} wrong",
            shown(directory),
            report.objects
        ),
    });
    if let Err(error) = index {
        say(&format!("hint: {}", error.hint()));
    }
}

fn json(
    directory: &std::path::Path,
    report: &library::Report,
    is_compared: bool,
) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| serde_json::json!({ "path": path_text::printable(&finding.place), "what": finding.what }))
        .collect();
    serde_json::json!({
        "index": path_text::printable(directory),
        "objects": report.objects,
        "files_read": report.files_read,
        "compared": is_compared,
        "wrong": report.wrong,
        "findings": findings,
    })
}
