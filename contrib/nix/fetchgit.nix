# A `fetchgit` as that of Nixpkgs, whose builder is `fetch builder`. It needs nothing but Nix: no stdenv, no git.
#
#   fetchgit = import ./fetchgit.nix { fetch = ./fetch; };
#   fetchgit { url = "https://example.org/some.git"; rev = "v1.0"; hash = "sha256-..."; }
#
# A fixed output's path is made of its name and hash, so the results are those of Nixpkgs' function.
{
  # The static program (contrib/static-build): a path, which goes into the store; or a string, which the sandbox must
  # have (`sandbox-paths`).
  fetch,
  # Whom calls are passed to that want more than a commit's tree, or want it by ssh: Nixpkgs' own function.
  original ? null,
  system ? builtins.currentSystem,
  # What the sandbox shall see of this machine, and where to look besides: as for ./fetchurl.nix.
  hostPaths ? [ ],
  environment ? { },
}:

let
  inherit (builtins)
    all
    attrNames
    baseNameOf
    elem
    elemAt
    filter
    head
    isAttrs
    isString
    length
    match
    substring
    ;

  builder = if isString fetch then fetch else "${builtins.path { path = fetch; name = "fetch"; }}";

  fakeHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

  # What we do ourselves, and what we do as long as it asks for nothing.
  ours = [
    "url" "rev" "tag" "name" "hash" "outputHash" "outputHashAlgo" "sha256" "fetchSubmodules"
    "preferLocalBuild" "meta" "passthru"
    # Of use in `.git` only, which is not kept.
    "branchName"
  ];
  asksForNothing = {
    leaveDotGit = false;
    deepClone = false;
    fetchTags = false;
    fetchLFS = false;
    sparseCheckout = [ ];
    nonConeMode = false;
    rootDir = "";
    preFetch = "";
    postCheckout = "";
    postFetch = "";
    netrcPhase = null;
    netrcImpureEnvVars = [ ];
    gitConfigFile = null;
    nativeBuildInputs = [ ];
    allowedRequisites = null;
    derivationArgs = { };
  };
  # "ssh://host/path", "me@host:path".
  isSsh = url: match "ssh://.*|[^/]*@[^/]*:.*" url != null;
  isPlain = args:
    isAttrs args
    && !(original != null && isSsh (args.url or ""))
    && all (name: elem name ours || (asksForNothing ? ${name} && args.${name} == asksForNothing.${name})) (attrNames args);

  # `some` for https://example.org/some.git at a tag, `some-0123456` at a commit.
  nameOf = url: rev:
    let
      base = baseNameOf (head (match "(.*[^/])/*" url));
      path = match "(.*):([^:]*)" base;
      last = if path == null then base else elemAt path 1;
      stripped = match "(.*)\\.git" last;
      isId = match "[a-f0-9]*" rev != null;
    in
    (if stripped == null then last else head stripped) + (if isId then "-${substring 0 7 rev}" else "");

  clone =
    {
      url,
      rev ? null,
      tag ? null,
      name ? null,
      hash ? "",
      outputHash ? "",
      outputHashAlgo ? "",
      sha256 ? "",
      fetchSubmodules ? true,
      preferLocalBuild ? true,
      meta ? { },
      passthru ? { },
      ...
    }@args:
    let
      revision =
        if tag != null && rev == null then "refs/tags/${tag}"
        else if rev != null && tag == null then rev
        else throw "fetchgit wants either `rev` or `tag`";

      hashes = filter (candidate: candidate.outputHash != "" && candidate.outputHash != null) [
        { outputHashAlgo = ""; outputHash = hash; }
        { inherit outputHashAlgo outputHash; }
        { outputHashAlgo = "sha256"; outputHash = sha256; }
      ];
      wanted =
        if length hashes > 1 then throw "fetchgit got more than one hash for ${url}"
        else if hashes == [ ] then { outputHashAlgo = ""; outputHash = fakeHash; }
        else head hashes;

      # The name is part of the path, and Nixpkgs has changed its mind about it: its own function knows.
      usual = if original == null then nameOf url revision else (original args).name or (nameOf url revision);

      derived = derivation (
        {
          inherit builder system url preferLocalBuild fetchSubmodules;
          inherit (wanted) outputHash outputHashAlgo;
          args = [ "builder" ];
          name = if name != null then name else usual;
          rev = revision;
          outputHashMode = "recursive";
          impureEnvVars = [
            "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy"
            "HTTP_PROXY" "HTTPS_PROXY" "FTP_PROXY" "ALL_PROXY" "NO_PROXY"
            "NIX_SSL_CERT_FILE" "NIX_CONNECT_TIMEOUT"
          ];
        }
        // (if hostPaths == [ ] then { } else { __impureHostDeps = hostPaths; })
        // environment
      );
    in
    derived
    // {
      inherit meta tag;
      gitRepoUrl = url;
    }
    // passthru
    // {
      passthru = { gitRepoUrl = url; inherit tag; } // passthru;
    }
    # What is changed afterwards may want more than a commit.
    // (if original == null then { } else {
      overrideAttrs = change: (original args).overrideAttrs change;
    });

  fetchgit = args:
    if isPlain args then clone args
    else if original != null then original args
    else throw "fetchgit: this call wants more than a commit's tree, and no `original` was given";
in
if isAttrs original then original // { __functor = _self: fetchgit; } else fetchgit
