#include "sim/cli/plugin_option.h"

#include "policies/plugin.h"

namespace evictsim {

void add_plugin_option(CLI::App& command, std::vector<std::string>& files) {
  command.add_option("--plugin", files, "Shared object with more policies; may be given several times")
      ->allow_extra_args(false)
      ->type_name("FILE.so");
}

void load_plugins(const std::vector<std::string>& files) {
  for (const std::string& file : files) policies::load_plugin(file);
}

}  // namespace evictsim
