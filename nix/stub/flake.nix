{
  description = "A stand-in for nixpkgs with just what this flake uses, to evaluate it without a network";

  outputs = { self }: { lib = import ./lib.nix; };
}
