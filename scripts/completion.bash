# Completion of commands and flags in bash
# Use: source scripts/completion.bash

_vtsidecar() {
  local word=${COMP_WORDS[COMP_CWORD]}
  local before=("${COMP_WORDS[@]:0:COMP_CWORD}")
  # The program completes the beginning of a flag, and lists commands otherwise. "--" alone would end the flags.
  [[ $word != -* ]] || before+=("${word/#--/-}")
  mapfile -t COMPREPLY < <(compgen -W "$("${before[@]}" --generate-bash-completion 2>/dev/null)" -- "$word")
}
complete -o bashdefault -o default -F _vtsidecar vtsidecar ./vtsidecar
