//! What is said when nothing was delivered, and with which exit code.

use store_index::digest::Digest;

use crate::error::{ErrorKind, FetchError};
use crate::git::remote;
use crate::request::{Request, Target};
use crate::source::Disc;
use crate::source_url::Scheme;

/// What the network sources said.
#[derive(Debug, Default)]
pub(crate) struct NetworkSummary {
    /// A server was asked.
    pub(crate) asked: bool,
    /// What the user can do about the trouble below, where it is not to try again later.
    pub(crate) advice: Option<&'static str>,
    /// The first complete body that was wrong.
    pub(crate) wrong: Option<WrongBody>,
    /// The last URL that a rule of the configuration forbids, with the rule's place.
    pub(crate) blocked: Option<String>,
    /// A body had no room here, or claimed to need more.
    pub(crate) no_room: Option<Box<FetchError>>,
    /// The last trouble that was not a plain "not there", with its place.
    pub(crate) trouble: Option<String>,
    /// What a repository said that has not got it, with its place.
    pub(crate) lacking: Option<String>,
}

/// A complete body that was not the wanted content.
#[derive(Debug)]
pub(crate) struct WrongBody {
    /// Whence.
    pub(crate) location: String,
    /// Its digest, if it can have one.
    pub(crate) got: Option<Digest>,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// What it seems to be.
    pub(crate) seems: Option<String>,
    /// Where it was kept, with size and hash.
    pub(crate) kept: Option<String>,
}

/// Says what was wanted and what came, in the form of the user's hash.
pub(crate) fn describe_wrong(request: &Request, got: Option<&Digest>) -> String {
    format!(
        "wanted {}, got {}",
        request.wanted(),
        describe_got(request, got)
    )
}

fn describe_got(request: &Request, got: Option<&Digest>) -> String {
    match got {
        Some(got) => got.in_form(request.form).to_string(),
        None if request.unpack => "nothing that could be unpacked".to_owned(),
        None => "content that has no such hash".to_owned(),
    }
}

/// Why nothing was delivered. `suspicious` are the local places that the stale-hash guard passed over, `discs` the
/// media that have it and are not here.
pub(crate) fn nothing_delivered(
    request: &Request,
    offline: bool,
    network: &NetworkSummary,
    suspicious: &[String],
    discs: &[Disc],
) -> FetchError {
    let what = match &request.name {
        Some(name) => format!("{} ({})", request.wanted(), name.escape_debug()),
        None => request.wanted(),
    };
    let error = if let Some(wrong) = &network.wrong {
        mismatch(request, &what, wrong)
    } else if let Some(trouble) = &network.trouble {
        FetchError::new(
            ErrorKind::Network,
            format!("cannot download {what}\n  {trouble}"),
        )
        .with_hint(
            network
                .advice
                .unwrap_or("try again later, or give another URL"),
        )
    } else if let Some(blocked) = network.blocked.as_ref().filter(|_| !network.asked) {
        FetchError::usage(format!(
            "no usable URL is left for {what}, and no local source has it\n  {blocked}"
        ))
        .with_hint("give another URL, or change the rule")
    } else if !offline
        && request
            .git
            .as_ref()
            .is_some_and(|git| !remote::is_supported(&git.url))
    {
        FetchError::usage(format!(
            "no local repository has {what}, and the URL of --git cannot be fetched from"
        ))
        .with_hint("https://, http://, git://, ssh:// and file:// URLs can be fetched from")
    } else if !offline && !request.urls.is_empty() && only_unsupported(request) {
        FetchError::usage(format!(
            "no usable URL is left for {what}, and no local source has it"
        ))
        .with_hint("http://, https://, mirror:// and, on the command line, file:// URLs can be fetched from")
    } else if let Some(lacking) = &network.lacking {
        FetchError::new(
            ErrorKind::NotFound,
            format!("not found: {what}\n  {lacking}"),
        )
        .with_hint("--rev takes a commit's full id, a tag, a branch, HEAD or a whole reference name; fetch explain shows what is asked")
    } else {
        not_found(&what, network.asked, offline)
    };
    with_suspicious(with_discs(error, discs), suspicious)
}

/// Says what the stale-hash guard passed over.
pub(crate) fn with_suspicious(error: FetchError, suspicious: &[String]) -> FetchError {
    if suspicious.is_empty() {
        return error;
    }
    let message = format!(
        "{}\n  stale hash? it seems to be here under the name of another version: {}",
        error.message,
        suspicious.join(", ")
    );
    FetchError { message, ..error }.with_hint(
        "if the hash is right, --stale-hash ignore uses what is here; if not, put in the new version's hash",
    )
}

/// Says which media would help. The exit code stays: what the network did is no less true.
pub(crate) fn with_discs(error: FetchError, discs: &[Disc]) -> FetchError {
    if discs.is_empty() {
        return error;
    }
    let mut message = error.message;
    for disc in discs {
        message.push_str("\n  ");
        message.push_str(&disc.whereabouts());
    }
    let advice: Vec<_> = discs.iter().map(Disc::advice).collect();
    let hint = format!("{}, and run this again", advice.join(" or "));
    FetchError { message, ..error }.with_hint(hint)
}

fn mismatch(request: &Request, what: &str, wrong: &WrongBody) -> FetchError {
    let got = describe_got(request, wrong.got.as_ref());
    let WrongBody {
        location, bytes, ..
    } = wrong;
    let mut message = format!(
        "hash mismatch\n  wanted: {what}\n  got:    {got} ({bytes} bytes)\n  from:   {location}"
    );
    if let Some(seems) = &wrong.seems {
        message.push_str("\n  it is:  ");
        message.push_str(seems);
    }
    if let Some(kept) = &wrong.kept {
        message.push_str("\n  kept:   ");
        message.push_str(kept);
    }
    FetchError::new(ErrorKind::Mismatch, message)
    .with_hint("check that URL and hash belong together; if upstream replaced the file, the hash needs a change")
}

fn not_found(what: &str, asked: bool, offline: bool) -> FetchError {
    let searched = match (asked, offline) {
        (true, _) => "no local source has it, and every server answered that it is not there",
        (false, true) => "no local source has it, and the network is off (--offline)",
        (false, false) => "no local source has it, and there was no URL to ask",
    };
    FetchError::new(ErrorKind::NotFound, format!("not found: {what}\n  {searched}")).with_hint(
        "store-index update makes more of this machine's files findable; fetch explain shows what was asked",
    )
}

fn only_unsupported(request: &Request) -> bool {
    // In a derivation nobody asks for a file of this machine.
    let takes_files = !matches!(request.target, Target::Given(_));
    request.urls.iter().all(|url| match url.scheme() {
        Scheme::Http | Scheme::Https => false,
        Scheme::Mirror => request.mirror_sites.expand(url).is_empty(),
        Scheme::Other(_) => !(url.is_file() && takes_files),
    })
}
