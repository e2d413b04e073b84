# An overlay of Nixpkgs whose plain `fetchurl` and `fetchgit` calls use `fetch`; those with postFetch, curlOpts,
# netrcPhase, leaveDotGit, fetchLFS and the like (fetchzip, fetchpatch and most of fetchFromGitHub among them) go to
# Nixpkgs' own functions, as before.
#
#   import <nixpkgs> { overlays = [ (import ./overlay.nix { fetch = ./fetch; }) ]; }
#
# The program comes from outside Nixpkgs, since everything in Nixpkgs needs `fetchurl`: a file beside this one, a path
# that the sandbox has, or a download of Nix's own:
#
#   fetch = import <nix/fetchurl.nix> { url = "https://example.org/fetch"; hash = "sha256-..."; executable = true; };
#
# The packages that Nixpkgs bootstraps itself from have a function of their own and are not reached.
{
  fetch,
  hostPaths ? [ ],
  environment ? { },
}:
_final: prev:
let
  list = prev.path + "/pkgs/build-support/fetchurl/mirrors.nix";
  all = if builtins.pathExists list then import list else { };
  config = prev.config or { };
in
{
  fetchurl = import ./fetchurl.nix {
    # A derivation is used as the path that it makes.
    fetch = if fetch ? outPath then "${fetch}" else fetch;
    inherit hostPaths environment;
    original = prev.fetchurl;
    system = prev.stdenv.buildPlatform.system;
    mirrors = removeAttrs all [ "hashedMirrors" ];
    hashedMirrors = all.hashedMirrors or config.hashedMirrors or [ ];
    rewriteURL = config.rewriteURL or (url: url);
  };

  fetchgit = import ./fetchgit.nix {
    fetch = if fetch ? outPath then "${fetch}" else fetch;
    inherit hostPaths environment;
    original = prev.fetchgit;
    system = prev.stdenv.buildPlatform.system;
  };
}
