# The packages that this flake uses. buildGoModule only checks what it is given
# and wraps ./retally, if the caller put a program there; the other packages
# are names without contents. runCommand is real, on a shell named /bin/sh.
{ system, ... }:

let
  lib = import ./lib.nix;

  platform = {
    inherit system;
    canExecute = other: other.system == system;
  };

  mk =
    name: attrs: script:
    derivation (
      {
        inherit name system;
        builder = "/bin/sh";
        args = [
          "-ec"
          script
        ];
        PATH = "/bin";
      }
      // attrs
    );

  named = name: mk name { } "mkdir $out";

  buildGoModule =
    {
      pname,
      version,
      src,
      vendorHash,
      env,
      subPackages,
      ldflags,
      doCheck,
      nativeBuildInputs,
      postInstall,
      meta,
    }@args:
    assert builtins.match "sha256-[A-Za-z0-9+/]{43}=" vendorHash != null;
    assert builtins.all (d: builtins.pathExists (src + "/${d}")) subPackages;
    mk "${pname}-${version}"
      {
        inherit src nativeBuildInputs postInstall;
        program = if builtins.pathExists ./retally then ./retally else "/bin/false";
      }
      ''
        mkdir -p $out/bin
        cp $program $out/bin/${pname}
        chmod 755 $out/bin/${pname}
      ''
    // {
      inherit
        env
        ldflags
        meta
        src
        subPackages
        vendorHash
        version
        ;
    };

  pkgs = {
    inherit lib buildGoModule;
    stdenv = {
      hostPlatform = platform;
      buildPlatform = platform;
    };
    runCommand =
      name:
      { nativeBuildInputs }:
      mk name { PATH = builtins.concatStringsSep ":" (map (p: "${p}/bin") nativeBuildInputs ++ [ "/bin" ]); };
    mkShell = { packages }: mk "shell" { inherit packages; } "mkdir $out";
    callPackage = f: args: let fn = import f; in fn (builtins.intersectAttrs (builtins.functionArgs fn) pkgs // args);
    go = named "go";
    installShellFiles = named "install-shell-files";
    jq = named "jq";
    skopeo = named "skopeo";
  };
in
pkgs
