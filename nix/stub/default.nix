# The packages that this flake uses. buildGoModule only checks what it is given
# and wraps ./retally, if the caller put a program there; the other packages
# are names without contents. runCommand is real, on a shell named /bin/sh, and
# buildLayeredImage makes an archive of one layer in the form that Nix's has.
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
    dockerTools.buildLayeredImage =
      {
        name,
        tag,
        contents,
        config,
      }:
      mk "${name}.tar.gz" { inherit contents; config = builtins.toJSON config; } ''
        mkdir -p root/bin x
        for c in $contents; do cp $c/bin/* root/bin/; done
        tar -c -C root -f x/layer.tar bin
        id=$(sha256sum x/layer.tar | cut -d ' ' -f 1)
        mkdir x/$id
        mv x/layer.tar x/$id/layer.tar
        echo '{"architecture":"amd64","os":"linux","config":'"$config"',"rootfs":{"type":"layers","diff_ids":["sha256:'$id'"]}}' > x/config
        c=$(sha256sum x/config | cut -d ' ' -f 1)
        mv x/config x/$c.json
        echo '[{"Config":"'$c'.json","RepoTags":["${name}:${tag}"],"Layers":["'$id'/layer.tar"]}]' > x/manifest.json
        tar -c -C x -f image.tar manifest.json $c.json $id
        gzip -n image.tar
        cp image.tar.gz $out
      '';
    mkShell = { packages }: mk "shell" { inherit packages; } "mkdir $out";
    callPackage = f: args: let fn = import f; in fn (builtins.intersectAttrs (builtins.functionArgs fn) pkgs // args);
    go = named "go";
    installShellFiles = named "install-shell-files";
    jq = named "jq";
    skopeo = named "skopeo";
  };
in
pkgs
