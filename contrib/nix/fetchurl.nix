# A `fetchurl` as that of Nixpkgs, whose builder is `fetch builder`. It needs nothing but Nix: no stdenv, no curl.
#
#   fetchurl = import ./fetchurl.nix { fetch = ./fetch; };
#   fetchurl { url = "mirror://gnu/hello/hello-2.10.tar.gz"; hash = "sha256-..."; }
#
# A fixed output's path is made of its name and hash, so the results are those of Nixpkgs' function, binary caches serve
# them, and nothing that depends on them is built again.
{
  # The static program (contrib/static-build): a path, which goes into the store; or a string, which the sandbox must
  # have (`sandbox-paths`).
  fetch,
  # Whom calls are passed to that want more than a download: Nixpkgs' own function.
  original ? null,
  system ? builtins.currentSystem,
  # What the sandbox shall see of this machine, if nix.conf allows it (`allowed-impure-host-deps`), as in
  # [ "/nix/store/.links" "/var/lib/store-index" ].
  hostPaths ? [ ],
  # Where to look besides, as in { FETCH_STORE = "=/host/store"; FETCH_MEDIA = "/media/cdrom"; }.
  environment ? { },
  # Lists of mirrors: { gnu = [ "https://ftp.gnu.org/gnu/" ]; }. NIX_MIRRORS_<site> in Nix's environment wins.
  mirrors ? { },
  # Mirrors that know content by its hash. NIX_HASHED_MIRRORS in Nix's environment wins.
  hashedMirrors ? [ ],
  rewriteURL ? (url: url),
}:

let
  inherit (builtins)
    all
    attrNames
    baseNameOf
    concatMap
    elem
    filter
    head
    isAttrs
    isString
    length
    listToAttrs
    map
    match
    removeAttrs
    ;

  builder = if isString fetch then fetch else "${builtins.path { path = fetch; name = "fetch"; }}";

  fakeHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

  # What we do ourselves, and what we do as long as it asks for nothing.
  ours = [
    "url" "urls" "name" "pname" "version"
    "hash" "outputHash" "outputHashAlgo" "sha1" "sha256" "sha512" "md5"
    "recursiveHash" "executable" "unpack" "preferLocalBuild" "meta" "passthru"
  ];
  asksForNothing = {
    postFetch = "";
    downloadToTemp = false;
    showURLs = false;
    curlOpts = "";
    curlOptsList = [ ];
    netrcPhase = null;
    netrcImpureEnvVars = [ ];
    nativeBuildInputs = [ ];
    derivationArgs = { };
  };
  isPlain = args:
    isAttrs args
    && all (name: elem name ours || (asksForNothing ? ${name} && args.${name} == asksForNothing.${name})) (attrNames args);

  # "mirror://gnu/hello/x" is [ "gnu" "hello/x" ].
  site = url: match "mirror://([^/ ]+)/(.+)" url;

  proxies = [
    "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy"
    "HTTP_PROXY" "HTTPS_PROXY" "FTP_PROXY" "ALL_PROXY" "NO_PROXY"
  ];

  download =
    {
      url ? "",
      urls ? [ ],
      name ? null,
      pname ? null,
      version ? null,
      hash ? "",
      outputHash ? "",
      outputHashAlgo ? "",
      sha1 ? "",
      sha256 ? "",
      sha512 ? "",
      md5 ? "",
      recursiveHash ? false,
      executable ? false,
      # An archive: its content is the output, without a single folder around it.
      unpack ? false,
      preferLocalBuild ? true,
      meta ? { },
      passthru ? { },
      ...
    }@args:
    let
      given =
        if urls != [ ] && url == "" then urls
        else if urls == [ ] && url != "" then [ url ]
        else throw "fetchurl wants either `url` or `urls`";
      all' = filter isString (map rewriteURL given);
      sites = filter (found: found != null) (map site all');
      names = attrNames (listToAttrs (map (found: { name = head found; value = null; }) sites));

      hashes = filter (candidate: candidate.outputHash != "" && candidate.outputHash != null) [
        { outputHashAlgo = ""; outputHash = hash; }
        { inherit outputHashAlgo outputHash; }
        { outputHashAlgo = "sha512"; outputHash = sha512; }
        { outputHashAlgo = "sha256"; outputHash = sha256; }
        { outputHashAlgo = "sha1"; outputHash = sha1; }
        { outputHashAlgo = "md5"; outputHash = md5; }
      ];
      wanted =
        if length hashes > 1 then throw "fetchurl got more than one hash for ${head all'}"
        else if hashes == [ ] then { outputHashAlgo = ""; outputHash = fakeHash; }
        else head hashes;

      # Which mirror is first, for tools that show where a source comes from.
      resolved =
        let found = site (head all'); in
        if found == null then head all'
        else "${head (mirrors.${head found} or [ "mirror://${head found}/" ])}${builtins.elemAt found 1}";

      derived = derivation (
        {
          inherit builder system preferLocalBuild executable unpack;
          inherit (wanted) outputHash outputHashAlgo;
          args = [ "builder" ];
          name =
            if pname != null && version != null then "${pname}-${version}"
            else if name != null then name
            else baseNameOf (head all');
          urls = all';
          outputHashMode = if recursiveHash || executable || unpack then "recursive" else "flat";
          impureEnvVars =
            proxies
            ++ [ "NIX_SSL_CERT_FILE" "NIX_HASHED_MIRRORS" "NIX_CONNECT_TIMEOUT" ]
            ++ map (name: "NIX_MIRRORS_${name}") names;
          FETCH_HASHED_MIRRORS = hashedMirrors;
        }
        // (if hostPaths == [ ] then { } else { __impureHostDeps = hostPaths; })
        // listToAttrs (concatMap (name:
          if mirrors ? ${name} then [ { name = "FETCH_MIRRORS_${name}"; value = mirrors.${name}; } ] else [ ]) names)
        // environment
      );
    in
    derived
    // {
      inherit meta;
      url = if url == "" then head all' else url;
      resolvedUrl = resolved;
    }
    // passthru
    // {
      inherit passthru;
    }
    # What is changed afterwards may want more than a download.
    // (if original == null then { } else {
      overrideAttrs = change: (original (removeAttrs args [ "unpack" ])).overrideAttrs change;
    });

  fetchurl = args:
    if isPlain args then download args
    else if original != null then original args
    else throw "fetchurl: this call wants more than a download, and no `original` was given";
in
if isAttrs original then original // { __functor = _self: fetchurl; } else fetchurl
