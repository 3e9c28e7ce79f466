"""Pictures without a display: MuJoCo by OpenGL, SAPIEN by Vulkan, fewer faces for fast frames."""
