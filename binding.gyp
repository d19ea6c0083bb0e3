# SPDX-License-Identifier: Apache-2.0
# A facade, so that node-gyp and prebuildify work: CMakeLists.txt is the only real build.
{
  "targets": [
    {
      "target_name": "chatspace_steer",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "message": "Building the addon with CMake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/chatspace_steer.node"],
          "action": ["node", "scripts/build-native.mjs", "--out", "<(PRODUCT_DIR)"]
        }
      ]
    }
  ]
}
