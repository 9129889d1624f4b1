#pragma once
/// \file
/// Texts that the build embeds; the file that defines them is generated (embed.cmake).

#include <string_view>

namespace evictsim::analysis::page_parts {

extern const std::string_view markup;          ///< page.html
extern const std::string_view style;           ///< style.css
extern const std::string_view script;          ///< script/main.js with all it imports
extern const std::string_view figures_script;  ///< script/figures.js likewise, for node
extern const std::string_view licences;        ///< of the libraries inside the scripts

}  // namespace evictsim::analysis::page_parts
